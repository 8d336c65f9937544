package vm

import (
	"errors"
	"time"

	"banger/internal/api"
)

// Hold keeps an ephemeral VM: it is deleted when all of its holders have
// called release, which may be called more than once. Other VMs can be held as
// well, without effect.
func (m *Manager) Hold(ref string) (release func(), err error) {
	e, err := m.resolve(ref)
	if err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if e.deleted {
		return nil, notFound(ref)
	}
	e.holders++
	e.stopGrace()
	released := false
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		if released {
			return
		}
		released = true
		e.holders--
		m.unheldLocked(e)
	}, nil
}

// stopGrace ends the wait for a holder; Manager.mu is held.
func (e *entry) stopGrace() {
	if e.grace != nil {
		e.grace.Stop()
		e.grace = nil
	}
}

// awaitHolder gives an ephemeral VM some time to be held for the first time.
func (m *Manager) awaitHolder(e *entry) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !e.record.Ephemeral || e.deleted || e.holders > 0 || m.closing || e.grace != nil {
		return
	}
	e.grace = time.AfterFunc(m.config.HoldGrace, func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.unheldLocked(e)
	})
}

// unheldLocked deletes an ephemeral VM that nobody holds, in the background;
// Manager.mu is held.
func (m *Manager) unheldLocked(e *entry) {
	if !e.record.Ephemeral || e.deleted || e.holders > 0 || m.closing {
		return
	}
	id, name := e.record.ID, e.record.Name
	m.wait.Go(func() {
		err := m.Delete(m.background, id, api.DeleteVM{Force: true})
		known := (*api.Error)(nil)
		if err == nil || (errors.As(err, &known) && known.Kind == api.KindNotFound) || errors.Is(err, errClosing) {
			return
		}
		m.log.Error("cannot delete an ephemeral VM", "vm", name, "error", err)
	})
}
