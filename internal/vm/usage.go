package vm

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"banger/internal/api"
	"banger/internal/store"
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
	return m.alone("delete", what, name, remove)
}

// Replaceable tells whether [Manager.ReplaceImage] would be refused now.
func (m *Manager) Replaceable(name string) error {
	return m.alone("replace", "image", name, func() error { return nil })
}

// ReplaceImage calls publish, which gives the name of an image to another one.
// The VMs that were made from the former keep it: before that, keep gives it
// the other name that it returns. Whatever is killed in between, they start.
func (m *Manager) ReplaceImage(ctx context.Context, name string, keep func() (string, error), publish func() error) error {
	return m.alone("replace", "image", name, func() error {
		if len(m.ImageUsers(name)) > 0 {
			kept, err := keep()
			if err == nil {
				err = m.renameImage(ctx, name, kept)
			}
			if err != nil {
				return fmt.Errorf("cannot keep the image %q for the VMs that were made from it: %w", name, err)
			}
		}
		return publish()
	})
}

func (m *Manager) renameImage(ctx context.Context, from, to string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, e := range m.vms {
		if e.record.Image != from {
			continue
		}
		if err := m.changeLocked(ctx, e, func(r *store.VM) { r.Image = to }); err != nil {
			return err
		}
	}
	return nil
}

// alone calls do while nothing is made from the image or kernel of that name.
func (m *Manager) alone(verb, what, name string, do func() error) error {
	done := make(chan struct{})
	m.mu.Lock()
	_, busy := m.removing[name]
	if busy = busy || m.using[name] > 0; !busy {
		m.removing[name] = done
	}
	m.mu.Unlock()
	if busy {
		return &api.Error{Kind: api.KindInUse, Message: fmt.Sprintf("cannot %s the %s %q: another operation is using it", verb, what, name), Hint: "try again in a moment"}
	}
	defer func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.removing, name)
		close(done)
	}()
	return do()
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
