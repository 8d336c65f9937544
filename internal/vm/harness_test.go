package vm

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"banger/internal/agent/wire"
	"banger/internal/api"
	"banger/internal/config"
	"banger/internal/disk"
	"banger/internal/network/plan"
	"banger/internal/paths"
	"banger/internal/progress"
	"banger/internal/store"
	"banger/internal/tool"
	"banger/internal/vmm"
	"banger/internal/vmm/vmmtest"
)

// patience bounds every wait of a test: far more than a loaded machine needs.
const patience = 2 * time.Minute

// harness is what stays when bangerd is restarted: files and VMMs.
type harness struct {
	*Manager
	fake *vmmtest.Fake
	dirs paths.Dirs
	db   *freezer

	mu sync.Mutex
	// published is what Publish got last; what follows makes a step fail.
	published   []string
	publishErr  error
	imageDigest string
	config      Config
}

func newHarness(t *testing.T, adjust ...func(*Config)) *harness {
	t.Helper()
	for _, name := range disk.Tools() {
		if _, err := tool.Find(name); err != nil {
			t.Skipf("needs e2fsprogs: %v", err)
		}
	}
	root := t.TempDir()
	h := &harness{
		fake:        vmmtest.NewFake(t),
		dirs:        paths.Dirs{Home: root, Config: filepath.Join(root, "config"), State: filepath.Join(root, "state"), Runtime: filepath.Join(root, "run")},
		imageDigest: "sha256:image",
	}
	if err := os.MkdirAll(h.dirs.State, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"root", "modules"} {
		if err := os.WriteFile(filepath.Join(root, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	h.config = Config{
		Dirs:    h.dirs,
		Drivers: []vmm.Driver{h.fake},
		Image: func(_ context.Context, name string, _ progress.Func) (Image, error) {
			if name != "debian-bookworm" {
				return Image{}, &api.Error{Kind: api.KindNotFound, Message: "no such image"}
			}
			h.mu.Lock()
			defer h.mu.Unlock()
			return Image{Name: name, Digest: h.imageDigest, Path: filepath.Join(root, "root"), Kernel: "kernel"}, nil
		},
		Kernel: func(_ context.Context, name string, _ progress.Func) (Kernel, error) {
			return Kernel{Name: name, Digest: "sha256:kernel", Vmlinux: "vmlinux", Initramfs: "initramfs", Modules: filepath.Join(root, "modules")}, nil
		},
		Load: func() (config.Config, error) {
			return config.Config{DefaultImage: "debian-bookworm", VMDefaults: config.Request{VCPU: 1, MemoryMiB: 256, DiskBytes: 64 << 20}}, nil
		},
		Networks: []Network{{
			DNS: plan.Gateway.String(), MTU: 9000,
			Mode: vmm.NetworkUser,
			Connect: func(_ context.Context, link Link) (vmm.NIC, func() error, error) {
				return vmm.NIC{Mode: vmm.NetworkUser, MAC: link.MAC, Address: link.Address, Gateway: link.Gateway}, func() error { return nil }, nil
			},
		}},
		AuthorizedKeys: func() ([]string, error) { return []string{"ssh-ed25519 A"}, nil },
		NewHostKey:     func() (wire.HostKey, error) { return wire.HostKey{Type: "ed25519", Private: "p", Public: "q"}, nil },
		Publish: func(vms []store.VM) error {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.published = nil
			for _, vm := range vms {
				h.published = append(h.published, vm.Name)
			}
			return h.publishErr
		},
		Log:         slog.New(slog.DiscardHandler),
		BootTimeout: func(string) time.Duration { return patience },
		StopTimeout: patience,
		HoldGrace:   patience,
	}
	for _, f := range adjust {
		f(&h.config)
	}
	h.open(t)
	return h
}

// open starts a manager on the files that are there.
func (h *harness) open(t *testing.T) {
	t.Helper()
	db, err := store.Open(t.Context(), h.dirs.Database())
	if err != nil {
		t.Fatal(err)
	}
	config := h.config
	h.db = &freezer{Store: db, left: -1, frozen: make(chan struct{}), thaw: make(chan struct{})}
	config.Store = h.db
	manager := New(config)
	h.Manager = manager
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), patience)
		defer cancel()
		if err := errors.Join(manager.Close(ctx), db.Close()); err != nil {
			t.Error(err)
		}
	})
	if err := manager.Reconcile(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// crash is what kill -9 of bangerd does: the old manager is cut off from the
// database, and a new one finds what is there.
func (h *harness) crash(t *testing.T) {
	t.Helper()
	h.abandon(t)
	h.open(t)
}

// abandon makes everything the manager still does fail.
func (h *harness) abandon(t *testing.T) {
	t.Helper()
	if err := h.db.Close(); err != nil {
		t.Fatal(err)
	}
	old := h.Manager
	old.mu.Lock()
	defer old.mu.Unlock()
	old.closing = true
	for _, e := range old.vms {
		e.stopGrace()
		e.machine = nil // so that nobody notes its end
	}
}

// freezer is a store that can stop the world at a write.
type freezer struct {
	*store.Store
	mu           sync.Mutex
	left         int // writes until then, -1 for never
	frozen, thaw chan struct{}
}

var errFrozen = errors.New("bangerd was killed here")

func (f *freezer) write() error {
	f.mu.Lock()
	if f.left > 0 {
		f.left--
	} else if f.left == 0 {
		select {
		case <-f.frozen:
		default:
			close(f.frozen)
		}
		f.mu.Unlock()
		<-f.thaw
		return errFrozen
	}
	f.mu.Unlock()
	return nil
}

func (f *freezer) Insert(ctx context.Context, vm store.VM) error {
	if err := f.write(); err != nil {
		return err
	}
	return f.Store.Insert(ctx, vm)
}

func (f *freezer) Update(ctx context.Context, vm store.VM) error {
	if err := f.write(); err != nil {
		return err
	}
	return f.Store.Update(ctx, vm)
}

func (f *freezer) Delete(ctx context.Context, vm store.VM) error {
	if err := f.write(); err != nil {
		return err
	}
	return f.Store.Delete(ctx, vm)
}

// killedAt runs an operation and freezes everything at its n-th write, which is
// what kill -9 there would leave; then it starts the next manager. It reports
// whether the operation has that many writes.
func (h *harness) killedAt(t *testing.T, n int, operate func()) bool {
	t.Helper()
	db := h.db
	db.mu.Lock()
	db.left = n
	db.mu.Unlock()
	done := make(chan struct{})
	go func() { defer close(done); operate() }()
	select {
	case <-done:
		h.crash(t)
		return false
	case <-db.frozen:
		t.Cleanup(func() { close(db.thaw); <-done })
		h.open(t)
		return true
	case <-time.After(patience):
		t.Fatal("the operation hangs")
		return false
	}
}

func (h *harness) create(t *testing.T, request api.CreateVM) api.VM {
	t.Helper()
	vm, err := h.Create(t.Context(), request, progress.Discard)
	if err != nil {
		t.Fatal(err)
	}
	return vm
}

// eventually waits until the condition holds.
func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for !holds() {
		if time.Now().After(deadline) {
			t.Fatalf("not seen in time: %s", what)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func wantKind(t *testing.T, err error, want api.Kind) {
	t.Helper()
	known := (*api.Error)(nil)
	if !errors.As(err, &known) || known.Kind != want {
		t.Errorf("error %v, want one of kind %q", err, want)
	}
}

func (h *harness) wantState(t *testing.T, ref string, want api.State) {
	t.Helper()
	vm, err := h.Get(ref)
	if err != nil {
		t.Error(err)
	} else if vm.State != want {
		t.Errorf("state of %s is %s, want %s (last error: %q)", ref, vm.State, want, vm.LastError)
	}
}

// wantNothing checks that nothing is left of any VM but those named.
func (h *harness) wantNothing(t *testing.T, but ...string) {
	t.Helper()
	records, err := h.Manager.config.Store.List(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var ids, names []string
	for _, r := range records {
		ids, names = append(ids, r.ID), append(names, r.Name)
		if r.Pending != store.PendingNone {
			t.Errorf("%s is still in the middle of %q", r.Name, r.Pending)
		}
	}
	slices.Sort(names)
	slices.Sort(but)
	if !slices.Equal(names, but) {
		t.Errorf("there are records of %v, want %v", names, but)
	}
	for _, dir := range []string{h.dirs.VMs(), filepath.Dir(h.dirs.Run("x"))} {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		for _, entry := range entries {
			if strings.HasSuffix(entry.Name(), graveSuffix) { // on its way out
				eventually(t, "the removal of what a machine has left", func() bool {
					_, err := os.Lstat(filepath.Join(dir, entry.Name()))
					return errors.Is(err, os.ErrNotExist)
				})
				continue
			}
			if !slices.Contains(ids, entry.Name()) {
				t.Errorf("%s is left in %s", entry.Name(), filepath.Base(dir))
			}
		}
	}
	// A deletion leaves the kernel a moment's work.
	eventually(t, "the end of all other VMMs", func() bool {
		return !slices.ContainsFunc(h.fake.Running(), func(id string) bool { return !slices.Contains(ids, id) })
	})
	h.mu.Lock()
	defer h.mu.Unlock()
	if !slices.Equal(h.published, but) {
		t.Errorf("published %v, want %v", h.published, but)
	}
}
