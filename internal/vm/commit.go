package vm

import (
	"context"
	"errors"
	"fmt"
	"io"

	"banger/internal/agent"
	"banger/internal/api"
	"banger/internal/progress"
)

// System gives take the root file system of a VM as a tar stream, made by the
// guest itself. A VM that does not run is started for it, and stopped again.
func (m *Manager) System(ctx context.Context, ref string, report progress.Func, take func(vm api.VM, system io.Reader) error) (err error) {
	shown, err := m.Get(ref)
	if err != nil {
		return err
	}
	if shown.State == api.StateStopped {
		if _, err := m.StartOn(ctx, shown.ID, api.StartVM{}, report); err != nil {
			return err
		}
		defer func() {
			_, stopErr := m.Stop(context.WithoutCancel(ctx), shown.ID, api.StopVM{}, report)
			err = errors.Join(err, stopErr)
		}()
	}
	s, err := m.running(shown.ID)
	if err != nil {
		return err
	}
	report.Step("reading the VM's disk")
	system, err := agent.New(s.machine.DialAgent).System(ctx)
	if err != nil {
		return fmt.Errorf("cannot read the disk of VM %q: %w", shown.Name, err)
	}
	defer system.Close()
	return take(shown, system)
}
