package vm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"banger/internal/agent"
	"banger/internal/agent/wire"
	"banger/internal/api"
	"banger/internal/disk"
	"banger/internal/progress"
	"banger/internal/store"
	"banger/internal/vmm"
	"banger/internal/vmm/process"
)

// Stop has the guest write everything and power off. Only a guest that takes
// too long is killed, with a warning. A VM that does not run is left as it is;
// one that is being started no longer is.
func (m *Manager) Stop(ctx context.Context, ref string, request api.StopVM, report progress.Func) (api.VM, error) {
	if request.TimeoutSeconds < 0 {
		return api.VM{}, &api.Error{Kind: api.KindUsage, Message: fmt.Sprintf("cannot wait %d seconds for a VM to stop", request.TimeoutSeconds)}
	}
	op, err := m.begin(ctx, ref, "stop", report, "start")
	if err != nil {
		return api.VM{}, err
	}
	defer op.end()
	if err := m.claim(op.ctx, op.entry); err != nil { //nolint:contextcheck // an operation's context is its caller's, made anew
		return api.VM{}, err
	}
	limit := m.config.StopTimeout
	if request.TimeoutSeconds > 0 {
		limit = time.Duration(request.TimeoutSeconds) * time.Second
	}
	if err := m.shutDown(op, limit, report); err != nil { //nolint:contextcheck // an operation's context is its caller's, made anew
		return api.VM{}, err
	}
	return m.stopped(op.entry)
}

// shutDown stops a VM, if it runs, within limit or by force.
func (m *Manager) shutDown(op *operation, limit time.Duration, report progress.Func) error {
	machine := m.live(op.ctx, op.entry)
	if machine == nil {
		return nil
	}
	op.phase(api.StateStopping)
	name := m.look(op.entry).record.Name
	report.Step("stopping " + name)
	ctx, cancel := context.WithTimeoutCause(op.ctx, limit, fmt.Errorf("it did not power off within %v", limit))
	defer cancel()
	// The guest may be gone before its answer gets here.
	askErr := agent.New(machine.DialAgent).Shutdown(ctx, wire.Shutdown{})
	select {
	case <-machine.Done():
	default:
		if askErr != nil && op.ctx.Err() == nil {
			// Not asked, it will not stop by itself; but a guest that only
			// was late with its answer gets its time all the same.
			m.log.Warn("cannot ask a guest to stop", "vm", name, "error", askErr)
		}
		select {
		case <-machine.Done():
		case <-ctx.Done():
		}
	}
	if op.ctx.Err() != nil && !interrupted(op.ctx) {
		// The guest was asked already: what was begun cannot be taken back.
		return fmt.Errorf("cannot wait for the VM %q to stop: %w", name, context.Cause(op.ctx))
	}
	if m.live(op.ctx, op.entry) == nil {
		return nil
	}
	why := context.Cause(ctx)
	if askErr != nil {
		why = errors.Join(askErr, why)
	}
	report.Warn(fmt.Sprintf("killing %s: %v", name, why))
	m.log.Warn("killing a VM that does not stop", "vm", name, "error", why)
	return m.powerOff(op.ctx, op.entry)
}

// Kill ends a VM as a power cut would. It does not wait for a start or a stop
// that is under way.
func (m *Manager) Kill(ctx context.Context, ref string) (api.VM, error) {
	op, err := m.begin(ctx, ref, "kill", progress.Discard, "start", "stop")
	if err != nil {
		return api.VM{}, err
	}
	defer op.end()
	if err := m.claimToEnd(op.ctx, op.entry); err != nil { //nolint:contextcheck // an operation's context is its caller's, made anew
		return api.VM{}, err
	}
	op.phase(api.StateStopping)
	if err := m.powerOff(ctx, op.entry); err != nil {
		return api.VM{}, err
	}
	return m.stopped(op.entry)
}

// claimToEnd is claim for a VM that is to be killed: a VMM that does not answer,
// or whose driver is configured no more, is ended all the same. Which process
// it is is certain without an answer.
func (m *Manager) claimToEnd(ctx context.Context, e *entry) error {
	claimErr := m.claim(ctx, e)
	if claimErr == nil {
		return nil
	}
	record := m.look(e).record
	handle := record.Handle
	child, err := process.Open(process.Identity{PID: handle.PID, StartTime: handle.StartTime, BootID: handle.BootID})
	if err == nil {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), vmm.KillTimeout)
		defer cancel()
		err = errors.Join(child.Kill(ctx), child.Close())
		m.log.WarnContext(ctx, "killed a VMM that could not be adopted", "vm", record.Name, "error", claimErr)
	}
	if err != nil && !errors.Is(err, process.ErrGone) {
		return fmt.Errorf("cannot kill the VM %q: %w", record.Name, err)
	}
	if err := os.RemoveAll(m.config.Dirs.Run(record.ID)); err != nil {
		return fmt.Errorf("cannot remove the sockets of VM %q: %w", record.Name, err)
	}
	return m.change(ctx, e, func(r *store.VM) { r.Handle, r.Started = nil, nil })
}

// stopped shows the VM of an operation that has stopped it.
func (m *Manager) stopped(e *entry) (api.VM, error) {
	s := m.look(e)
	s.state = api.StateStopped
	return m.show(s)
}

// powerOff kills the VMM, if there is one, and forgets it. It does not hang on
// a caller's patience: the process is gone in a moment.
func (m *Manager) powerOff(ctx context.Context, e *entry) error {
	return m.end(ctx, e, vmm.Machine.Kill)
}

// cutOff is powerOff for a VM that is deleted: nobody will open its disks again,
// and there is no need to wait until the kernel has let go of them. Of its TAP
// there is, which is the next one's that gets the address.
func (m *Manager) cutOff(ctx context.Context, e *entry) error {
	if m.look(e).onBridge() {
		return m.powerOff(ctx, e)
	}
	return m.end(ctx, e, vmm.Machine.Cut)
}

func (m *Manager) end(ctx context.Context, e *entry, kill func(vmm.Machine, context.Context) error) error {
	s := m.look(e)
	if s.machine == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), vmm.KillTimeout)
	defer cancel()
	if err := kill(s.machine, ctx); err != nil {
		select {
		case <-s.machine.Done(): // and who watches it has let go of it already
		default:
			return fmt.Errorf("cannot kill the VM %q: %w", s.record.Name, err)
		}
	}
	m.ended(ctx, e, s.machine)
	return nil
}

// Delete deletes a VM and its disks. A running one is refused without force.
func (m *Manager) Delete(ctx context.Context, ref string, request api.DeleteVM) error {
	var interrupts []string
	if request.Force {
		interrupts = []string{"start", "stop"}
	}
	op, err := m.begin(ctx, ref, "delete", progress.Discard, interrupts...)
	if err != nil {
		return err
	}
	defer op.end()
	e := op.entry
	claim := m.claim
	if request.Force {
		claim = m.claimToEnd
	}
	if err := claim(op.ctx, e); err != nil { //nolint:contextcheck // an operation's context is its caller's, made anew
		return err
	}
	if m.live(ctx, e) != nil && !request.Force {
		name := m.look(e).record.Name
		return &api.Error{
			Kind:    api.KindState,
			Message: fmt.Sprintf("cannot delete the VM %q: it runs", name),
			Hint:    fmt.Sprintf("stop it first (banger vm stop %s), or delete it with --force", name),
		}
	}
	op.phase(api.StateDeleting)
	return m.destroy(ctx, e)
}

// destroy kills and deletes a VM; the caller has its lock. From its first step
// on it is finished even if bangerd ends in its middle.
func (m *Manager) destroy(ctx context.Context, e *entry) error {
	if err := m.change(ctx, e, func(r *store.VM) { r.Pending = store.PendingDelete }); err != nil {
		// With no space left for the intent, what frees some must still work.
		if !disk.IsNoSpace(err) {
			return err
		}
		m.log.WarnContext(ctx, "deleting without a recorded intent", "vm", m.look(e).record.Name, "error", err)
	}
	if err := m.cutOff(ctx, e); err != nil {
		return err
	}
	return m.erase(ctx, e)
}
