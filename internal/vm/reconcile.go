package vm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"banger/internal/api"
	"banger/internal/progress"
	"banger/internal/store"
	"banger/internal/vmm"
)

// Reconcile makes what is there and what is recorded agree, after bangerd,
// VMMs or the host ended in whatever way: half-made VMs are removed, deletions
// finished, running VMs adopted, and what nothing stands for any more is
// removed. It is called once, before everything else. A VM with which
// something is wrong does not keep the others from working: that is logged.
func (m *Manager) Reconcile(ctx context.Context) error {
	records, err := m.config.Store.List(ctx)
	if err != nil {
		return err
	}
	m.mu.Lock()
	for _, record := range records {
		m.vms[record.ID] = &entry{record: record, lock: newLock()}
	}
	m.mu.Unlock()
	for _, e := range m.entries() {
		record := m.look(e).record
		if err := m.reconcile(ctx, e); err != nil {
			m.log.ErrorContext(ctx, "cannot put a VM in order", "vm", record.Name, "error", err)
		}
	}
	m.removeOrphans(ctx)
	for _, e := range m.entries() {
		m.awaitHolder(e)
		m.giveBackLater(e)
	}
	return m.publish()
}

func (m *Manager) reconcile(ctx context.Context, e *entry) error {
	pending := m.look(e).record.Pending
	if err := m.claim(ctx, e); err != nil {
		return err
	}
	switch pending {
	case store.PendingCreate, store.PendingDelete:
		if err := m.clearRun(ctx, e.record.ID); err != nil {
			return err
		}
		return m.destroy(ctx, e)
	case store.PendingStart:
		if m.live(ctx, e) != nil {
			m.finishStart(ctx, e)
			return nil
		}
		if err := m.clearRun(ctx, e.record.ID); err != nil {
			return err
		}
		return m.change(ctx, e, func(r *store.VM) { r.Pending = store.PendingNone })
	case store.PendingNone:
	}
	return nil
}

// claim verifies the handle of a VM that has no machine: the VMM it means is
// adopted, or the handle is forgotten.
func (m *Manager) claim(ctx context.Context, e *entry) error {
	s := m.look(e)
	if s.machine != nil || s.record.Handle == nil {
		return nil
	}
	machine, err := m.adopt(ctx, *s.record.Handle)
	if errors.Is(err, vmm.ErrGone) {
		m.log.InfoContext(ctx, "a VM ended while nobody watched", "vm", s.record.Name)
		if err := os.RemoveAll(m.config.Dirs.Run(s.record.ID)); err != nil {
			return fmt.Errorf("cannot remove the sockets of VM %q: %w", s.record.Name, err)
		}
		return m.change(ctx, e, func(r *store.VM) { r.Handle, r.Started = nil, nil })
	}
	if err != nil {
		return fmt.Errorf("cannot find out whether the VM %q runs: %w", s.record.Name, err)
	}
	m.mu.Lock()
	e.machine = machine
	m.mu.Unlock()
	if s.record.Pending != store.PendingStart { // that one is configured first
		m.forward(e)
	}
	m.watch(ctx, e, machine)
	m.log.InfoContext(ctx, "adopted a running VM", "vm", s.record.Name, "pid", s.record.Handle.PID)
	return nil
}

func (m *Manager) adopt(ctx context.Context, handle vmm.Handle) (vmm.Machine, error) {
	for _, driver := range m.config.Drivers {
		if driver.Name() == handle.Driver {
			return driver.Adopt(ctx, handle)
		}
	}
	return nil, fmt.Errorf("there is no VMM driver %q", handle.Driver)
}

// finishStart goes on, in the background, with a start that the last bangerd
// was in the middle of.
func (m *Manager) finishStart(ctx context.Context, e *entry) {
	id, name := m.look(e).record.ID, m.look(e).record.Name
	op, err := m.begin(context.WithoutCancel(ctx), id, "start", progress.Discard)
	if err != nil { // nobody else can have the lock yet
		m.log.ErrorContext(ctx, "cannot finish the start of a VM", "vm", name, "error", err)
		return
	}
	op.phase(api.StateStarting)
	m.wait.Go(func() {
		defer op.end()
		err := errors.New("its VMM ended")
		if machine := m.live(ctx, e); machine != nil {
			err = m.meet(op.ctx, e, machine, progress.Discard) //nolint:contextcheck // an operation's context is its caller's, made anew
		}
		if err == nil {
			err = m.met(ctx, e)
		}
		if err != nil {
			m.log.ErrorContext(ctx, "cannot finish the start of a VM", "vm", name, "error", m.startFailed(op, err))
		}
	})
}

// reaper is a driver that can end what a start has left behind whose handle was
// never recorded: bangerd was killed between the two.
type reaper interface {
	// Reap ends the VMM that has its sockets in runDir, if there is one.
	Reap(ctx context.Context, runDir string) error
}

// clearRun removes the sockets of a VM that does not run. The directory is
// moved away first: from then on a VMM that is only just starting in it finds
// no place for its sockets and ends, and one that has them is found by them.
func (m *Manager) clearRun(ctx context.Context, id string) error {
	dir := m.config.Dirs.Run(id)
	grave := dir + graveSuffix
	if err := m.bury(ctx, grave); err != nil {
		return err
	}
	if err := os.Rename(dir, grave); errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return fmt.Errorf("cannot clear the directory of a VM's sockets: %w", err)
	}
	return m.bury(ctx, grave)
}

const graveSuffix = ".old"

func (m *Manager) bury(ctx context.Context, grave string) error {
	if _, err := os.Lstat(grave); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, driver := range m.config.Drivers {
		if reaper, ok := driver.(reaper); ok {
			if err := reaper.Reap(ctx, grave); err != nil {
				return fmt.Errorf("cannot end a VMM that was left behind: %w", err)
			}
		}
	}
	if err := os.RemoveAll(grave); err != nil {
		return fmt.Errorf("cannot clear the directory of a VM's sockets: %w", err)
	}
	return nil
}

// removeOrphans removes directories of VMs of which there is no record. Only
// what has the form of a VM's directory is touched. With a new database beside
// old VMs nothing is: somebody lost the database, not the VMs.
func (m *Manager) removeOrphans(ctx context.Context) {
	known := func(id string) bool {
		m.mu.Lock()
		defer m.mu.Unlock()
		return m.vms[id] != nil
	}
	for _, name := range m.entriesOf(filepath.Dir(m.config.Dirs.Run("x"))) {
		id, buried := name, false
		if n := len(name) - len(graveSuffix); n > 0 && name[n:] == graveSuffix {
			id, buried = name[:n], true
		}
		if !validID.MatchString(id) || (known(id) && !buried) {
			continue
		}
		if buried {
			if err := m.bury(ctx, m.config.Dirs.Run(id)+graveSuffix); err != nil {
				m.log.ErrorContext(ctx, "cannot remove what a VM has left", "id", id, "error", err)
			}
			continue
		}
		if err := m.clearRun(ctx, id); err != nil {
			m.log.ErrorContext(ctx, "cannot remove what a VM has left", "id", id, "error", err)
		}
	}
	for _, name := range m.entriesOf(m.config.Dirs.VMs()) {
		if !validID.MatchString(name) || known(name) {
			continue
		}
		if m.config.Store.Fresh() {
			m.log.WarnContext(ctx, "there is a VM's directory that the new database does not know", "path", m.config.Dirs.VM(name))
			continue
		}
		if err := os.RemoveAll(m.config.Dirs.VM(name)); err != nil {
			m.log.ErrorContext(ctx, "cannot remove what a VM has left", "id", name, "error", err)
		}
	}
}

func (m *Manager) entriesOf(dir string) []string {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		m.log.Error("cannot look for what VMs have left", "path", dir, "error", err)
	}
	var names []string
	for _, entry := range entries {
		if entry.IsDir() {
			names = append(names, entry.Name())
		}
	}
	return names
}
