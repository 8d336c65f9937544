package vm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"banger/internal/agent"
	"banger/internal/api"
	"banger/internal/config"
	"banger/internal/filesync"
	"banger/internal/progress"
	"banger/internal/vmm"
)

// syncTimeout bounds the copying of files into a new guest.
const syncTimeout = 15 * time.Minute

// syncFiles copies what file_sync names into a guest that starts for the first
// time. Later it is the guest's own: nothing is overwritten.
func (m *Manager) syncFiles(ctx context.Context, e *entry, machine vmm.Machine, report progress.Func) error {
	record := m.look(e).record
	if record.FilesSynced {
		return nil
	}
	return m.copyFiles(ctx, record.Name, machine, report)
}

func (m *Manager) copyFiles(ctx context.Context, name string, machine vmm.Machine, report progress.Func) error {
	settings, err := m.config.Load()
	if err != nil {
		return &api.Error{Kind: api.KindState, Message: err.Error()}
	}
	if len(settings.FileSync) == 0 {
		return nil
	}
	report.Step("copying files")
	ctx, cancel := context.WithTimeoutCause(ctx, syncTimeout, fmt.Errorf("copying took more than %v", syncTimeout))
	defer cancel()
	warn := func(text string) {
		m.log.WarnContext(ctx, "file_sync", "vm", name, "warning", text)
		report.Warn(text)
	}
	reader, writer := io.Pipe()
	packed := make(chan error, 1)
	go func() {
		err := filesync.Write(ctx, settings.FileSync, writer, warn)
		packed <- err
		writer.CloseWithError(err)
	}()
	err = agent.New(machine.DialAgent).Upload(ctx, config.GuestHome, reader)
	_ = reader.Close() // ends the packing where the guest does not want it
	packErr := <-packed
	if packErr != nil && !errors.Is(packErr, io.ErrClosedPipe) {
		err = packErr // the cause of what Upload says
	}
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return &api.Error{
		Kind:    api.KindState,
		Message: fmt.Sprintf("cannot copy the files of file_sync to the VM %q: %v", name, err),
		Hint:    "see [[file_sync]] in config.toml; the next start of the VM tries it again",
	}
}
