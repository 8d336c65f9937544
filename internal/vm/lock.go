package vm

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"banger/internal/api"
	"banger/internal/progress"
)

// lock serialises the operations on one VM. What it says about the operation
// that has it is guarded by Manager.mu.
type lock struct {
	slot chan struct{} // of capacity 1: full while an operation has the lock
	// what the operation is, such as "start".
	what   string
	cancel context.CancelCauseFunc
	// waiters want the lock, and operations of some kinds canceled for it.
	waiters []*waiter
}

type waiter struct {
	what       string
	interrupts []string
}

func newLock() lock { return lock{slot: make(chan struct{}, 1)} }

// acquire waits for the lock until ctx ends. A free lock is got in any case.
func (l *lock) acquire(ctx context.Context) bool {
	select {
	case l.slot <- struct{}{}:
		return true
	default:
	}
	select {
	case l.slot <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

// interrupt cancels the operation; Manager.mu is held.
func (l *lock) interrupt(cause error) {
	if l.cancel != nil {
		l.cancel(cause)
	}
}

// heed cancels the operation if somebody who waits wants that; Manager.mu is
// held.
func (l *lock) heed() {
	for _, w := range l.waiters {
		if slices.Contains(w.interrupts, l.what) {
			l.interrupt(&interruptedError{by: w.what})
		}
	}
}

// operation is the right to change one VM.
type operation struct {
	manager *Manager
	entry   *entry
	// ctx ends when the caller's does, or when the operation is interrupted.
	ctx context.Context
}

// interruptedError is the cause of the cancellation of an operation by another.
type interruptedError struct{ by string }

func (e *interruptedError) Error() string { return "it was interrupted by the VM's " + e.by }

// begin waits until no other operation on the VM runs. Running operations of
// the kinds in interrupts are not waited for but canceled.
func (m *Manager) begin(ctx context.Context, ref, what string, report progress.Func, interrupts ...string) (*operation, error) {
	e, err := m.resolve(ref)
	if err != nil {
		return nil, err
	}
	self := &waiter{what: what, interrupts: interrupts}
	m.mu.Lock()
	e.lock.waiters = append(e.lock.waiters, self)
	name, running := e.record.Name, e.lock.what
	e.lock.heed()
	m.mu.Unlock()
	if running != "" {
		report.Step(fmt.Sprintf("waiting for the %s of %q to end", running, name))
	}
	acquired := e.lock.acquire(ctx)
	m.mu.Lock()
	defer m.mu.Unlock()
	e.lock.waiters = slices.DeleteFunc(e.lock.waiters, func(w *waiter) bool { return w == self })
	if !acquired {
		return nil, fmt.Errorf("cannot %s the VM %q: %w", what, ref, context.Cause(ctx))
	}
	if m.closing {
		<-e.lock.slot
		return nil, fmt.Errorf("cannot %s the VM %q: %w", what, ref, errClosing)
	}
	if e.deleted {
		<-e.lock.slot
		return nil, notFound(ref)
	}
	op := &operation{manager: m, entry: e}
	op.set(ctx, what)
	return op, nil
}

// set makes the operation one of another kind; Manager.mu is held.
func (op *operation) set(ctx context.Context, what string) {
	l := &op.entry.lock
	if l.cancel != nil {
		l.cancel(nil)
	}
	l.what = what
	op.ctx, l.cancel = context.WithCancelCause(ctx)
	l.heed()
}

// become makes the operation one of another kind.
func (op *operation) become(ctx context.Context, what string) {
	op.manager.mu.Lock()
	defer op.manager.mu.Unlock()
	op.set(ctx, what)
}

// phase says what is being done to the VM.
func (op *operation) phase(phase api.State) {
	op.manager.mu.Lock()
	defer op.manager.mu.Unlock()
	op.entry.phase = phase
}

// end gives the VM free.
func (op *operation) end() {
	op.manager.mu.Lock()
	defer op.manager.mu.Unlock()
	e := op.entry
	e.lock.cancel(nil)
	e.lock.what, e.lock.cancel, e.phase = "", nil, ""
	<-e.lock.slot
}

// interrupted says whether err comes from another operation on the same VM.
func interrupted(ctx context.Context) bool {
	var cause *interruptedError
	return errors.As(context.Cause(ctx), &cause)
}
