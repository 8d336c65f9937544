package vm

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"banger/internal/api"
)

// ImageUsers and KernelUsers return the names of the VMs that need an image or
// a kernel, sorted.
func (m *Manager) ImageUsers(name string) []string {
	return m.users(func(e *entry) bool { return e.record.Image == name })
}

// KernelUsers is [Manager.ImageUsers] for kernels.
func (m *Manager) KernelUsers(name string) []string {
	return m.users(func(e *entry) bool { return e.record.Kernel == name })
}

func (m *Manager) users(uses func(*entry) bool) []string {
	m.mu.Lock()
	defer m.mu.Unlock()
	var names []string
	for _, e := range m.vms {
		if uses(e) {
			names = append(names, e.record.Name)
		}
	}
	slices.Sort(names)
	return names
}

// Unused calls remove if no VM needs the image or kernel of that name and none
// is being made from it. What is "image" or "kernel".
func (m *Manager) Unused(what, name string, remove func() error) error {
	users := m.ImageUsers(name)
	if what == "kernel" {
		users = m.KernelUsers(name)
	}
	if len(users) > 0 {
		return &api.Error{
			Kind:    api.KindInUse,
			Message: fmt.Sprintf("cannot delete the %s %q: used by %s", what, name, strings.Join(users, ", ")),
			Hint:    "delete these VMs first: banger vm delete " + strings.Join(users, " "),
		}
	}
	done := make(chan struct{})
	m.mu.Lock()
	_, busy := m.removing[name]
	if busy = busy || m.using[name] > 0; !busy {
		m.removing[name] = done
	}
	m.mu.Unlock()
	if busy {
		return &api.Error{Kind: api.KindInUse, Message: fmt.Sprintf("cannot delete the %s %q: another operation is using it", what, name), Hint: "try again in a moment"}
	}
	defer func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.removing, name)
		close(done)
	}()
	return remove()
}

// use keeps an image or a kernel from being deleted until release is called.
// It waits for a deletion that has begun.
func (m *Manager) use(ctx context.Context, name string) (release func(), err error) {
	for {
		m.mu.Lock()
		done, removing := m.removing[name]
		if !removing {
			break
		}
		m.mu.Unlock()
		select {
		case <-done:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	defer m.mu.Unlock()
	m.using[name]++
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.using[name]--; m.using[name] == 0 {
			delete(m.using, name)
		}
	}, nil
}
