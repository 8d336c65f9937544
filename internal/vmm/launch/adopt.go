package launch

import (
	"context"
	"errors"
	"fmt"
	"time"

	"banger/internal/vmm"
	"banger/internal/vmm/process"
)

const (
	// adoptTimeout bounds the wait for the answer of a VMM that is adopted.
	adoptTimeout = 10 * time.Second
	// settle is how long a process that has closed its sockets may take to end.
	settle = 500 * time.Millisecond
)

// Adopt returns the process that a handle of a driver stands for. Ask finds out
// whether it is there to be talked to. The error is [vmm.ErrGone] if it has ended.
func Adopt(ctx context.Context, driver string, handle vmm.Handle, ask func(context.Context) error) (*process.Process, error) {
	if handle.Driver != driver {
		return nil, fmt.Errorf("cannot adopt a VM of the driver %q", handle.Driver)
	}
	child, err := process.Open(process.Identity{PID: handle.PID, StartTime: handle.StartTime, BootID: handle.BootID})
	if errors.Is(err, process.ErrGone) {
		return nil, vmm.ErrGone
	}
	if err != nil {
		return nil, fmt.Errorf("cannot adopt the VM: %w", err)
	}
	err = answers(ctx, child, ask)
	if err == nil {
		return child, nil
	}
	_ = child.Close()
	if errors.Is(err, vmm.ErrGone) {
		return nil, err
	}
	return nil, fmt.Errorf("cannot adopt the VM with process %d: %w", handle.PID, err)
}

func answers(ctx context.Context, child *process.Process, ask func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, adoptTimeout)
	defer cancel()
	ctx, stop := child.Context(ctx)
	defer stop()
	err := ask(ctx)
	if err == nil {
		return nil
	}
	// It may have been on its way out: the sockets close first.
	select {
	case <-child.Done():
		return vmm.ErrGone
	case <-time.After(settle):
		return err
	}
}
