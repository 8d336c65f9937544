package firecracker

import (
	"context"
	"net"
	"path/filepath"

	"banger/internal/agent/wire"
	"banger/internal/vmm"
	"banger/internal/vmm/process"
)

// machine is one running Firecracker.
type machine struct {
	handle  vmm.Handle
	process *process.Process
}

func newMachine(handle vmm.Handle, child *process.Process) *machine {
	return &machine{handle: handle, process: child}
}

// Handle implements [vmm.Machine].
func (m *machine) Handle() vmm.Handle { return m.handle }

// DialAgent implements [vmm.Machine]. Every stream is a vsock connection.
func (m *machine) DialAgent(ctx context.Context) (net.Conn, error) {
	return dialVsock(ctx, filepath.Join(m.handle.RunDir, vsockSocket), wire.VsockPort)
}

// Kill implements [vmm.Machine].
func (m *machine) Kill(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, vmm.KillTimeout)
	defer cancel()
	return m.process.Kill(ctx)
}

// Cut implements [vmm.Machine].
func (m *machine) Cut(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, vmm.KillTimeout)
	defer cancel()
	return m.process.Cut(ctx)
}

// Done implements [vmm.Machine].
func (m *machine) Done() <-chan struct{} { return m.process.Done() }

// Close implements [vmm.Machine].
func (m *machine) Close() error { return m.process.Close() }
