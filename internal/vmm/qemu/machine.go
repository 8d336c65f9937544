package qemu

import (
	"context"
	"net"
	"path/filepath"
	"sync"

	"banger/internal/vmm"
	"banger/internal/vmm/process"
)

// machine is one running QEMU.
type machine struct {
	handle  vmm.Handle
	process *process.Process
	channel *channel
	close   func() error
}

func newMachine(handle vmm.Handle, child *process.Process) *machine {
	m := &machine{
		handle: handle, process: child,
		channel: newChannel(filepath.Join(handle.RunDir, agentSocket)),
	}
	closed := make(chan struct{})
	m.close = sync.OnceValue(func() error {
		close(closed)
		m.channel.close()
		return child.Close()
	})
	go func() {
		select {
		case <-child.Done():
			m.channel.close()
		case <-closed:
		}
	}()
	return m
}

// Handle implements [vmm.Machine].
func (m *machine) Handle() vmm.Handle { return m.handle }

// DialAgent implements [vmm.Machine].
func (m *machine) DialAgent(ctx context.Context) (net.Conn, error) { return m.channel.dial(ctx) }

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
func (m *machine) Close() error { return m.close() }
