// Package vm is the core: it creates, starts, stops and deletes VMs, and keeps
// what it knows of them true over crashes of banger, of VMMs and of the host.
//
// A VM is a record, a directory with its disks and logs, and, while it runs, a
// VMM process with a directory for its sockets. Every change of several steps
// is recorded as pending before its first step, so that [Manager.Reconcile]
// can finish it or take it back.
//
// Lock order: a VM's operation lock, then publishing, then Manager.mu, which is
// held for moments and for writes to the database, never for anything that
// waits for a guest, a VMM or the network.
package vm

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"banger/internal/agent"
	"banger/internal/agent/wire"
	"banger/internal/api"
	"banger/internal/config"
	"banger/internal/disk"
	"banger/internal/hostenv"
	"banger/internal/network/forward"
	"banger/internal/paths"
	"banger/internal/progress"
	"banger/internal/store"
	"banger/internal/vmm"
)

// Image is what a VM's root file system comes from.
type Image struct {
	Name, Digest string
	Path         string // the read-only root disk
	Kernel       string // the name of the kernel it wants
}

// Kernel is what a VM boots.
type Kernel struct {
	Name, Digest                string
	Vmlinux, Initramfs, Modules string // paths
}

// Forwarding is a running guest's ports on the host: a [forward.Forwarder].
type Forwarding interface {
	// Close ends it at once.
	Close()
	// Ports returns what is served, once all of want are or ctx ends.
	Ports(ctx context.Context, want []wire.Port) []forward.Port
}

// Records is where VM records are kept: a [store.Store].
type Records interface {
	List(ctx context.Context) ([]store.VM, error)
	Insert(ctx context.Context, vm store.VM) error
	Update(ctx context.Context, vm store.VM) error
	Delete(ctx context.Context, vm store.VM) error
	Fresh() bool
}

// Config is what a [Manager] works with. All fields are required but those that
// say so.
type Config struct {
	Dirs  paths.Dirs
	Store Records
	// Drivers in the order of preference, which counts for VMs whose driver
	// nobody names.
	Drivers []vmm.Driver
	// Cmdline is added to the kernel command line that the driver makes.
	Cmdline string
	// Image and Kernel return what has the name, fetched first if missing.
	Image  func(ctx context.Context, name string, report progress.Func) (Image, error)
	Kernel func(ctx context.Context, name string, report progress.Func) (Kernel, error)
	// Load returns the user's configuration as it is now.
	Load func() (config.Config, error)
	// Networks are the ways to connect guests, best first.
	Networks []Network
	// HostEnvironment works out what a guest gets of how this host reaches
	// the network. Nil passes nothing.
	HostEnvironment func(ctx context.Context, environment map[string]string) (hostenv.Passed, error)
	// Forward serves what a running guest listens on at the loopback address
	// of the VM, until Close. Nil leaves ports unserved. It is called with
	// locks held, and must not wait.
	Forward func(guest *agent.Client, loopback netip.Addr) Forwarding
	// AuthorizedKeys opens guests, NewHostKey makes a guest's identity.
	AuthorizedKeys func() ([]string, error)
	NewHostKey     func() (wire.HostKey, error)
	// Publish writes what depends on all VMs, such as known_hosts. It is
	// called before a VM is first started, and after one is deleted, never
	// twice at once.
	Publish func(vms []store.VM) error
	Log     *slog.Logger

	// Optional: how long a guest may take to answer, how long a clean stop,
	// and how long an ephemeral VM waits for its first holder.
	BootTimeout func(accelerator string) time.Duration
	StopTimeout time.Duration
	HoldGrace   time.Duration
}

const (
	defaultStopTimeout = 30 * time.Second
	defaultHoldGrace   = time.Minute
)

func defaultBootTimeout(accelerator string) time.Duration {
	if accelerator == "kvm" {
		return 2 * time.Minute // a host may itself be a busy guest
	}
	return 3 * time.Minute
}

// Manager owns all VMs of a user. Its methods may be called from any goroutine.
// Where they take a ref that is a name, an id or a unique prefix of an id. The
// errors that a user can act on are *[api.Error].
type Manager struct {
	config Config
	log    *slog.Logger
	// background is what the manager does on its own: watching VMs, deleting
	// ephemeral ones. It ends with Close.
	background context.Context
	cancel     context.CancelCauseFunc
	wait       sync.WaitGroup

	publishing sync.Mutex

	disks disk.Maker

	mu  sync.Mutex
	vms map[string]*entry // by id
	// using counts the operations that are about to use an image or kernel,
	// removing has those that are being deleted, with what ends then.
	using    map[string]int
	removing map[string]chan struct{}
	closing  bool
}

// entry is one VM. All fields but lock are guarded by Manager.mu.
type entry struct {
	record store.VM
	// machine is the running VMM, nil if there is none.
	machine vmm.Machine
	// forwarding is set while the guest runs, configured.
	forwarding Forwarding
	// phase is what an operation is doing to the VM, empty if nothing.
	phase   api.State
	deleted bool
	holders int
	grace   *time.Timer
	// borrowers have the VM run for a moment; see borrow.
	borrowers int

	lock lock
}

// New returns a manager of the VMs in the store. [Manager.Reconcile] must be
// called before anything else.
func New(config Config) *Manager {
	if config.BootTimeout == nil {
		config.BootTimeout = defaultBootTimeout
	}
	if config.StopTimeout == 0 {
		config.StopTimeout = defaultStopTimeout
	}
	if config.HoldGrace == 0 {
		config.HoldGrace = defaultHoldGrace
	}
	background, cancel := context.WithCancelCause(context.Background())
	return &Manager{
		config: config, log: config.Log, background: background, cancel: cancel,
		vms: make(map[string]*entry), using: make(map[string]int), removing: make(map[string]chan struct{}),
	}
}

// errClosing is why operations are canceled at the end.
var errClosing error = &api.Error{Kind: api.KindCanceled, Message: "bangerd is stopping", Hint: "try again"}

// Close ends the manager: operations get until ctx ends to finish, then they
// are canceled and undone. VMs run on. A second call does nothing.
func (m *Manager) Close(ctx context.Context) error {
	m.mu.Lock()
	if m.closing {
		m.mu.Unlock()
		return nil
	}
	m.closing = true
	for _, e := range m.vms {
		e.stopGrace()
	}
	m.mu.Unlock()
	for _, e := range m.entries() {
		if !e.lock.acquire(ctx) {
			m.mu.Lock()
			e.lock.interrupt(errClosing)
			m.mu.Unlock()
			e.lock.acquire(context.WithoutCancel(ctx))
		}
	}
	// All locks are held, and never released: nothing begins any more.
	m.cancel(errClosing)
	m.wait.Wait()
	var errs []error
	for _, e := range m.entries() {
		if forwarding := m.look(e).forwarding; forwarding != nil {
			forwarding.Close()
		}
		if machine := m.look(e).machine; machine != nil {
			errs = append(errs, machine.Close())
		}
	}
	return errors.Join(errs...)
}

func (m *Manager) entries() []*entry {
	m.mu.Lock()
	defer m.mu.Unlock()
	entries := make([]*entry, 0, len(m.vms))
	for _, e := range m.vms {
		entries = append(entries, e)
	}
	return entries
}

// snapshot is a copy of an entry that needs no lock.
type snapshot struct {
	record     store.VM
	machine    vmm.Machine
	forwarding Forwarding
	state      api.State
}

// look copies an entry; m.mu is held.
func (e *entry) look() snapshot {
	s := snapshot{record: e.record, machine: e.machine, forwarding: e.forwarding, state: e.phase}
	if s.state == "" {
		s.state = api.StateStopped
		if e.machine != nil {
			s.state = api.StateRunning
		}
	}
	return s
}

func (m *Manager) look(e *entry) snapshot {
	m.mu.Lock()
	defer m.mu.Unlock()
	return e.look()
}

// show makes what the API shows of a VM. With an error that is all but what the
// disks take.
func (m *Manager) show(s snapshot) (api.VM, error) {
	r := s.record
	dir := m.config.Dirs.VM(r.ID)
	used, usageErr := disk.Usage(workDisk(dir), overlayDisk(dir))
	vm := api.VM{
		ID: r.ID, Name: r.Name, State: s.state, Image: r.Image, ImageDigest: r.ImageDigest, Kernel: r.Kernel, VCPU: r.VCPU, MemoryMiB: r.MemoryMiB, DiskBytes: r.DiskBytes,
		Address: r.Address, MAC: r.MAC, Created: r.Created, Ephemeral: r.Ephemeral, LastError: r.LastError, Dir: dir, DiskUsed: used,
		VMMChoice: r.VMM,
	}
	if loopback, err := loopback(r); err == nil {
		vm.Loopback = loopback.String()
	}
	if s.machine != nil {
		if address, ok := s.hostAddress(); ok {
			vm.OnHost = address.String()
		}
		vm.Started, vm.VMM, vm.VMMReason = r.Started, r.Handle, r.VMMReason
		text, err := access(m.config.Dirs.Run(r.ID))
		if err != nil {
			m.log.Warn("what a guest may reach is not known", "vm", r.Name, "error", err)
			text = "unknown: " + err.Error()
		}
		vm.NetworkAccess = text
	}
	return vm, usageErr
}

func workDisk(dir string) string    { return filepath.Join(dir, "work.ext4") }
func overlayDisk(dir string) string { return filepath.Join(dir, "overlay.ext4") }
func consoleLog(dir string) string  { return filepath.Join(dir, "console.log") }
func metricsLog(dir string) string  { return filepath.Join(dir, "metrics.log") }
func networkLog(dir string) string  { return filepath.Join(dir, "network.log") }
func vmmLog(dir string) string      { return filepath.Join(dir, "vmm.log") }

// Get returns one VM.
func (m *Manager) Get(ref string) (api.VM, error) {
	e, err := m.resolve(ref)
	if err != nil {
		return api.VM{}, err
	}
	return m.show(m.look(e))
}

// List returns all VMs in the order of their names. One whose disks cannot be
// looked at takes none.
func (m *Manager) List() []api.VM {
	m.mu.Lock()
	all := make([]snapshot, 0, len(m.vms))
	for _, e := range m.vms {
		all = append(all, e.look())
	}
	m.mu.Unlock()
	vms := make([]api.VM, 0, len(all))
	for _, s := range all {
		vm, err := m.show(s)
		if err != nil { // which must not hide the others
			m.log.Warn("what a VM takes on the disk is not known", "vm", vm.Name, "error", err)
		}
		vms = append(vms, vm)
	}
	slices.SortFunc(vms, func(a, b api.VM) int { return strings.Compare(a.Name, b.Name) })
	return vms
}

// Count is the number of VMs.
func (m *Manager) Count() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.vms)
}

// resolve finds a VM.
func (m *Manager) resolve(ref string) (*entry, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if e, ok := m.vms[ref]; ok {
		return e, nil
	}
	var matches []*entry
	for id, e := range m.vms {
		if e.record.Name == ref {
			return e, nil
		}
		if ref != "" && strings.HasPrefix(id, ref) {
			matches = append(matches, e)
		}
	}
	switch len(matches) {
	case 0:
		return nil, notFound(ref)
	case 1:
		return matches[0], nil
	}
	var names []string
	for _, e := range matches {
		names = append(names, fmt.Sprintf("%s (%s)", e.record.ID, e.record.Name))
	}
	slices.Sort(names)
	return nil, &api.Error{
		Kind:    api.KindAmbiguous,
		Message: fmt.Sprintf("cannot tell which VM %q is: it fits %s", ref, strings.Join(names, ", ")),
		Hint:    "use the name or more of the id",
	}
}

func notFound(ref string) error {
	return &api.Error{Kind: api.KindNotFound, Message: fmt.Sprintf("cannot find the VM %q", ref), Hint: "list all with: banger vm list"}
}

// change updates a VM's record in the database and then in memory.
func (m *Manager) change(ctx context.Context, e *entry, update func(*store.VM)) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.changeLocked(ctx, e, update)
}

func (m *Manager) changeLocked(ctx context.Context, e *entry, update func(*store.VM)) error {
	record := e.record
	update(&record)
	// Not a request's context: the record follows what has been done.
	if err := m.config.Store.Update(context.WithoutCancel(ctx), record); err != nil {
		return err
	}
	e.record = record
	return nil
}

// publish lets the files that depend on all VMs follow.
func (m *Manager) publish() error {
	m.publishing.Lock()
	defer m.publishing.Unlock()
	m.mu.Lock()
	records := make([]store.VM, 0, len(m.vms))
	for _, e := range m.vms {
		if !e.deleted {
			records = append(records, e.record)
		}
	}
	m.mu.Unlock()
	slices.SortFunc(records, func(a, b store.VM) int { return strings.Compare(a.Name, b.Name) })
	return m.config.Publish(records)
}
