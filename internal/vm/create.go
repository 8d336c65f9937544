package vm

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sync/errgroup"

	"banger/internal/agent/wire"
	"banger/internal/api"
	"banger/internal/config"
	"banger/internal/disk"
	"banger/internal/progress"
	"banger/internal/size"
	"banger/internal/store"
	"banger/internal/undo"
)

// overlaySize is the size in bytes of the disk that takes what a guest writes
// outside of /root. It is sparse: what counts is the free space of the host.
const overlaySize = 64 << 30

// Create makes a VM, and starts it if asked. When ctx ends before that is done
// everything is taken back. A VM whose start fails for another reason is kept.
func (m *Manager) Create(ctx context.Context, request api.CreateVM, report progress.Func) (_ api.VM, err error) {
	record, err := m.plan(request)
	if err != nil {
		return api.VM{}, err
	}
	if record.Name != "" && m.nameTaken(record.Name) {
		return api.VM{}, nameTaken(record.Name)
	}
	if request.Start {
		// Where no VM can run nothing is fetched, and none is made.
		networks, err := m.networks(netip.Addr{}, func(string) {}) // said when it starts
		if err != nil {
			return api.VM{}, err
		}
		if _, err := m.choose(ctx, request.VMM, networks); err != nil {
			return api.VM{}, err
		}
	}
	// Nothing exists yet while image and kernel are fetched, which can take
	// minutes. They cannot be deleted from here on.
	release, err := m.use(ctx, record.Image)
	if err != nil {
		return api.VM{}, err
	}
	defer release()
	image, err := m.config.Image(ctx, record.Image, report)
	if err != nil {
		return api.VM{}, err
	}
	if image.Name != record.Image {
		// The image that a reference means is deleted and replaced by its own
		// name: it may just have been.
		releaseName, err := m.use(ctx, image.Name)
		if err != nil {
			return api.VM{}, err
		}
		defer releaseName()
		if image, err = m.config.Image(ctx, record.Image, report); err != nil {
			return api.VM{}, err
		}
	}
	wanted := cmp.Or(record.Kernel, image.Kernel)
	releaseKernel, err := m.use(ctx, wanted)
	if err != nil {
		return api.VM{}, err
	}
	defer releaseKernel()
	kernel, err := m.config.Kernel(ctx, wanted, report)
	if err != nil {
		return api.VM{}, err
	}
	record.Image, record.ImageDigest = image.Name, image.Digest
	record.Kernel, record.KernelDigest = kernel.Name, kernel.Digest
	key, err := m.config.NewHostKey()
	if err != nil {
		return api.VM{}, err
	}
	record.HostKeys = []wire.HostKey{key}

	report.Step("creating the VM")
	op, err := m.insert(ctx, record)
	if err != nil {
		return api.VM{}, err
	}
	defer op.end()
	var steps undo.Stack
	defer steps.OnError(&err)
	steps.Add(func() error { return m.destroy(ctx, op.entry) })
	if err := m.furnish(op.ctx, op.entry.record); err != nil { //nolint:contextcheck // an operation's context is its caller's, made anew
		return api.VM{}, err
	}
	if err := m.publish(); err != nil {
		return api.VM{}, err
	}
	if !request.Start {
		if err := m.change(ctx, op.entry, func(r *store.VM) { r.Pending = store.PendingNone }); err != nil {
			return api.VM{}, err
		}
	} else {
		// From here on the start says what is pending.
		op.become(ctx, "start")
		if startErr := m.start(op, request.Environment, report); startErr != nil {
			if ctx.Err() != nil || errors.Is(startErr, errClosing) {
				return api.VM{}, startErr
			}
			// The VM stays, for its logs to say why.
			steps = undo.Stack{}
			return api.VM{}, startErr
		}
	}
	m.awaitHolder(op.entry)
	s := m.look(op.entry)
	if request.Start {
		s.state = api.StateRunning
	} else {
		s.state = api.StateStopped
	}
	return m.show(s)
}

// plan checks a request and works out the sizes. The record it returns has no
// identity yet.
func (m *Manager) plan(request api.CreateVM) (store.VM, error) {
	if request.Name != "" {
		if err := api.CheckName(request.Name); err != nil {
			return store.VM{}, err
		}
	}
	if err := m.checkVMM(request.VMM); err != nil {
		return store.VM{}, err
	}
	settings, err := m.config.Load()
	if err != nil {
		return store.VM{}, &api.Error{Kind: api.KindState, Message: err.Error()}
	}
	host, err := config.ThisHost()
	if err != nil {
		m.log.Warn("host sizes are not known", "error", err)
	}
	sizes := config.Sizes(settings, config.Request{VCPU: request.VCPU, MemoryMiB: request.MemoryMiB, DiskBytes: request.DiskBytes}, host)
	if err := checkSizes(sizes.VCPU, sizes.MemoryMiB, sizes.DiskBytes, host); err != nil {
		return store.VM{}, err
	}
	record := store.VM{
		Name: request.Name, Image: request.Image, Kernel: request.Kernel, VCPU: sizes.VCPU, MemoryMiB: sizes.MemoryMiB, DiskBytes: sizes.DiskBytes,
		Ephemeral: request.Ephemeral, Pending: store.PendingCreate, MachineID: randomHex(16), VMM: request.VMM,
		FilesSynced: request.Clean,
	}
	if record.Image == "" {
		record.Image = settings.DefaultImage
	}
	return record, nil
}

// checkSizes refuses what no VM can have, and more memory than the host has,
// of which nothing is known if it is zero.
func checkSizes(vcpu, memoryMiB int, diskBytes int64, host config.Host) error {
	for _, err := range []error{config.CheckVCPU(vcpu), config.CheckMemory(memoryMiB), config.CheckDisk(diskBytes)} {
		if err != nil {
			return &api.Error{Kind: api.KindUsage, Message: "cannot make such a VM: " + err.Error()}
		}
	}
	if memory := int64(memoryMiB) * size.MiB; host.MemoryBytes > 0 && memory > host.MemoryBytes {
		return &api.Error{
			Kind:    api.KindState,
			Message: fmt.Sprintf("cannot give a VM %s of memory: this host has %s", size.Format(memory), size.Format(host.MemoryBytes/size.MiB*size.MiB)),
			Hint:    "give it less, with --memory SIZE",
		}
	}
	return nil
}

func nameTaken(name string) error {
	return &api.Error{
		Kind:    api.KindExists,
		Message: fmt.Sprintf("cannot create the VM %q: there is one of that name", name),
		Hint:    "choose another name, or delete that VM with: banger vm delete " + name,
	}
}

func (m *Manager) nameTaken(name string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.nameTakenLocked(name)
}

func (m *Manager) nameTakenLocked(name string) bool {
	for _, e := range m.vms {
		if e.record.Name == name {
			return true
		}
	}
	return false
}

// insert gives the VM its identity and records it as being created. Its lock
// is held by the operation returned.
func (m *Manager) insert(ctx context.Context, record store.VM) (*operation, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closing {
		return nil, errClosing
	}
	if record.Name == "" {
		record.Name = generateName(m.nameTakenLocked)
	} else if m.nameTakenLocked(record.Name) {
		return nil, nameTaken(record.Name)
	}
	for record.ID == "" || m.vms[record.ID] != nil {
		record.ID = randomHex(6)
	}
	address, err := allocateAddress(func(address string) bool {
		for _, e := range m.vms {
			if e.record.Address == address {
				return true
			}
		}
		return false
	})
	if err != nil {
		return nil, err
	}
	record.Address, record.MAC = address, macOf(address)
	record.Created = time.Now().UTC().Truncate(time.Millisecond)
	if err := m.config.Store.Insert(ctx, record); err != nil {
		return nil, m.noSpace(err, fmt.Sprintf("cannot create the VM %q", record.Name))
	}
	e := &entry{record: record, lock: newLock()}
	e.lock.slot <- struct{}{}
	m.vms[record.ID] = e
	op := &operation{manager: m, entry: e}
	op.set(ctx, "create")
	return op, nil
}

// furnish makes a VM's directory and disks.
func (m *Manager) furnish(ctx context.Context, record store.VM) error {
	dir := m.config.Dirs.VM(record.ID)
	what := fmt.Sprintf("cannot create the VM %q", record.Name)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return m.noSpace(fmt.Errorf("%s: %w", what, err), what)
	}
	for _, log := range []string{consoleLog(dir), vmmLog(dir), metricsLog(dir), networkLog(dir)} {
		if err := os.WriteFile(log, nil, 0o600); err != nil {
			return m.noSpace(fmt.Errorf("%s: %w", what, err), what)
		}
	}
	var group errgroup.Group
	// After a crash of the host nobody holds an ephemeral VM, and it is deleted.
	lasting := !record.Ephemeral
	group.Go(func() error { return m.disks.Create(ctx, overlayDisk(dir), overlaySize, lasting) })
	group.Go(func() error { return m.disks.Create(ctx, workDisk(dir), record.DiskBytes, lasting) })
	return group.Wait()
}

// erase removes a VM that has no VMM: its files, its record, itself. The
// caller has its lock. What fails can be tried again.
func (m *Manager) erase(ctx context.Context, e *entry) error {
	record := m.look(e).record
	// Who saw the VMM end may be removing them just now.
	if err := m.clearRun(ctx, record.ID); err != nil {
		return fmt.Errorf("cannot delete the sockets of VM %q: %w", record.Name, err)
	}
	if err := os.RemoveAll(m.config.Dirs.VM(record.ID)); err != nil {
		return fmt.Errorf("cannot delete the disks of VM %q: %w", record.Name, err)
	}
	m.mu.Lock()
	err := m.config.Store.Delete(context.WithoutCancel(ctx), record)
	if err == nil {
		e.deleted = true
		e.stopGrace()
		delete(m.vms, record.ID)
	}
	m.mu.Unlock()
	if err != nil {
		return err
	}
	if err := m.publish(); err != nil {
		// The VM is gone all the same, and the next change writes them again.
		m.log.WarnContext(ctx, "cannot update the files for ssh", "vm", record.Name, "error", err)
	}
	return nil
}

// noSpace turns an error that comes from a full disk into one that says so.
func (m *Manager) noSpace(err error, what string) error {
	if known := (*api.Error)(nil); errors.As(err, &known) || !disk.IsNoSpace(err) {
		return err
	}
	return disk.NoSpace(what)
}
