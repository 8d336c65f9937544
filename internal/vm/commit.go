package vm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"banger/internal/agent"
	"banger/internal/agent/wire"
	"banger/internal/api"
	"banger/internal/excerpt"
	"banger/internal/progress"
	"banger/internal/store"
)

// System gives take the root file system of a VM as a tar stream, made by the
// guest itself. A VM that does not run is started for it, and stopped again
// unless somebody uses it by then.
func (m *Manager) System(ctx context.Context, ref string, report progress.Func, take func(vm api.VM, system io.Reader) error) (err error) {
	shown, err := m.Get(ref)
	if err != nil {
		return err
	}
	giveBack, err := m.borrow(ctx, shown.ID, report)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, giveBack()) }()
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

// Container gives take a container image of a running guest's Docker, as `docker
// save` writes it.
func (m *Manager) Container(ctx context.Context, ref, name string, report progress.Func, take func(vm api.VM, saved io.Reader) error) (err error) {
	shown, err := m.Get(ref)
	if err != nil {
		return err
	}
	s, err := m.running(shown.ID)
	if err != nil {
		return err
	}
	report.Step("reading the container image")
	saved, out := io.Pipe()
	said := &excerpt.Writer{Limit: maxComplaint / 2}
	request := wire.ExecRequest{Args: []string{"docker", "save", "--", name}}
	process, err := agent.New(s.machine.DialAgent).Exec(ctx, request, agent.Streams{Stdout: out, Stderr: said})
	if err != nil {
		return fmt.Errorf("cannot run docker in the VM %q: %w", shown.Name, err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		exit, err := process.Wait()
		if err == nil && exit.Code != 0 {
			err = fmt.Errorf("docker ended with status %d: %s", exit.Code, printable(strings.Join(strings.Fields(said.String()), " ")))
		}
		out.CloseWithError(err) // nil is the end of the stream
	}()
	// Whatever take has not read is not wanted: docker ends with its output.
	defer func() { err = errors.Join(err, saved.Close()); <-ended }()
	return take(shown, saved)
}

// maxComplaint bounds what is kept of a failed program's error output, in bytes.
const maxComplaint = 1 << 10

// borrow has a VM run until giveBack is called. That stops the VM if borrowing
// has started it, nobody else borrows it, and nobody has started it or opened a
// session in it since. That it is borrowed is recorded before it is started, so
// that the next bangerd gives it back if this one is killed.
func (m *Manager) borrow(ctx context.Context, id string, report progress.Func) (giveBack func() error, err error) {
	op, err := m.begin(ctx, id, "start", report)
	if err != nil {
		return nil, err
	}
	defer op.end()
	e := op.entry
	if err := m.claim(op.ctx, e); err != nil { //nolint:contextcheck // an operation's context is its caller's, made anew
		return nil, err
	}
	borrowed := func(is bool) error {
		return m.change(ctx, e, func(r *store.VM) { r.Borrowed = is })
	}
	if m.live(ctx, e) == nil {
		if err := borrowed(true); err != nil {
			return nil, err
		}
	}
	if err := m.start(op, nil, report); err != nil {
		return nil, errors.Join(err, borrowed(false))
	}
	m.mu.Lock()
	e.borrowers++
	m.mu.Unlock()
	started := m.look(e).record.Borrowed
	return func() error {
		m.mu.Lock()
		e.borrowers--
		name, kept := e.record.Name, started && !e.record.Borrowed && e.machine != nil
		m.mu.Unlock()
		if kept {
			report.Warn(name + " runs on: somebody uses it")
		}
		return m.giveBack(context.WithoutCancel(ctx), e, report)
	}, nil
}

// giveBack stops a VM that runs only because it is borrowed, if nobody borrows
// it any more.
func (m *Manager) giveBack(ctx context.Context, e *entry, report progress.Func) error {
	m.mu.Lock()
	id, due := e.record.ID, e.record.Borrowed && e.borrowers == 0 && !e.deleted
	m.mu.Unlock()
	if !due {
		return nil
	}
	op, err := m.begin(ctx, id, "stop", report)
	if known := (*api.Error)(nil); errors.As(err, &known) && known.Kind == api.KindNotFound {
		return nil // deleted meanwhile
	}
	if err != nil {
		return err
	}
	defer op.end()
	m.mu.Lock()
	due = e.record.Borrowed && e.borrowers == 0
	m.mu.Unlock()
	if !due {
		return nil
	}
	if err := m.shutDown(op, m.config.StopTimeout, report); err != nil { //nolint:contextcheck // an operation's context is its caller's, made anew
		return err
	}
	return m.change(ctx, e, func(r *store.VM) { r.Borrowed = false })
}

// giveBackLater is for what the last bangerd had borrowed.
func (m *Manager) giveBackLater(e *entry) {
	m.wait.Go(func() {
		if err := m.giveBack(m.background, e, progress.Discard); err != nil && !errors.Is(err, errClosing) {
			m.log.Error("cannot stop a VM that was started to be read", "vm", m.look(e).record.Name, "error", err)
		}
	})
}

// keepRunning notes that a VM which may be borrowed has somebody who wants it to run.
func (m *Manager) keepRunning(ctx context.Context, e *entry) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !e.record.Borrowed {
		return nil
	}
	return m.changeLocked(ctx, e, func(r *store.VM) { r.Borrowed = false })
}
