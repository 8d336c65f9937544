package vm

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"banger/internal/agent"
	"banger/internal/agent/wire"
	"banger/internal/api"
	"banger/internal/disk"
	"banger/internal/network/plan"
	"banger/internal/progress"
	"banger/internal/store"
	"banger/internal/undo"
	"banger/internal/vmm"
)

// Start boots a VM and returns when its guest is configured. A VM that runs is
// left as it is. When ctx ends before that the start is taken back; later the
// VM no longer hangs on it.
func (m *Manager) Start(ctx context.Context, ref string, report progress.Func) (api.VM, error) {
	return m.StartOn(ctx, ref, api.StartVM{}, report)
}

// StartOn is [Manager.Start] with a choice of what the VM runs on from now on.
// One that runs on something else is refused.
func (m *Manager) StartOn(ctx context.Context, ref string, request api.StartVM, report progress.Func) (api.VM, error) {
	if err := m.checkVMM(request.VMM); err != nil {
		return api.VM{}, err
	}
	op, err := m.begin(ctx, ref, "start", report)
	if err != nil {
		return api.VM{}, err
	}
	defer op.end()
	if request.VMM != "" {
		if err := m.rechoose(op, request.VMM); err != nil {
			return api.VM{}, err
		}
	}
	if err := m.keepRunning(op.ctx, op.entry); err != nil { //nolint:contextcheck // an operation's context is its caller's, made anew
		return api.VM{}, err
	}
	if err := m.start(op, request.Environment, report); err != nil {
		return api.VM{}, err
	}
	s := m.look(op.entry)
	s.state = api.StateRunning
	return m.show(s)
}

func (m *Manager) start(op *operation, environment map[string]string, report progress.Func) (err error) {
	e := op.entry
	if m.live(op.ctx, e) != nil {
		return nil
	}
	if err := m.claim(op.ctx, e); err != nil {
		return err
	}
	if m.live(op.ctx, e) != nil { // adopted just now
		return nil
	}
	op.phase(api.StateStarting)
	err = m.attempt(op, environment, report)
	if errors.Is(err, errNeverAnswered) && op.ctx.Err() == nil && m.live(op.ctx, e) == nil {
		// A kernel can crash in its first moments, mostly in emulation.
		// Nothing of the image has run yet: another try can do no harm.
		name := m.look(e).record.Name
		m.log.Warn("a guest ended before its agent answered, booting it once more", "vm", name, "error", err)
		report.Warn(fmt.Sprintf("booting %s once more: %v", name, err))
		err = m.attempt(op, environment, report)
	}
	if err == nil {
		return m.met(op.ctx, e)
	}
	before := m.look(e).record
	err = m.startFailed(op, err)
	if before.Ephemeral && !m.look(e).record.Ephemeral {
		report.Warn(fmt.Sprintf("the VM %q did not start and is kept, for banger vm logs %s to say why; delete it with: banger vm delete %s", before.Name, before.Name, before.Name))
	}
	return err
}

// attempt boots a VM and makes its guest known.
func (m *Manager) attempt(op *operation, environment map[string]string, report progress.Func) error {
	machine, err := m.boot(op.ctx, op.entry, environment, report)
	if err != nil {
		return err
	}
	return m.meet(op.ctx, op.entry, machine, report)
}

// errNeverAnswered is in the chain of a start's error when the VMM ended before
// the guest's agent had said a thing.
var errNeverAnswered = errors.New("its VMM ended before its guest answered")

// startFailed takes a start back that failed because of err.
func (m *Manager) startFailed(op *operation, err error) error {
	e := op.entry
	record := m.look(e).record
	var steps undo.Stack
	canceled := op.ctx.Err() != nil
	err = m.noSpace(err, fmt.Sprintf("cannot start the VM %q", record.Name))
	steps.Add(func() error {
		return m.change(op.ctx, e, func(r *store.VM) {
			r.Pending, r.Handle, r.Started = store.PendingNone, nil, nil
			if !canceled {
				r.LastError, r.Ephemeral = err.Error(), false
			}
		})
	})
	steps.Add(func() error { return os.RemoveAll(m.config.Dirs.Run(record.ID)) })
	steps.Add(func() error { return m.powerOff(op.ctx, e) })
	undoErr := steps.Run()
	if undoErr != nil {
		m.log.Error("cannot take a start back", "vm", record.Name, "error", undoErr)
	}
	if canceled {
		if interrupted(op.ctx) {
			return &api.Error{Kind: api.KindState, Message: fmt.Sprintf("cannot start the VM %q: %v", record.Name, context.Cause(op.ctx))}
		}
		return errors.Join(fmt.Errorf("cannot start the VM %q: %w", record.Name, context.Cause(op.ctx)), undoErr)
	}
	m.log.Warn("a VM did not start", "vm", record.Name, "error", err)
	if known := (*api.Error)(nil); errors.As(err, &known) {
		return err
	}
	return &api.Error{
		Kind:    api.KindInternal,
		Message: fmt.Sprintf("cannot start the VM %q: %v", record.Name, errors.Join(err, undoErr)),
		Hint:    "see what its guest said with: banger vm logs " + record.Name,
	}
}

// boot starts a VMM and records it.
func (m *Manager) boot(ctx context.Context, e *entry, environment map[string]string, report progress.Func) (vmm.Machine, error) {
	record := m.look(e).record
	for _, name := range []string{record.Image, record.Kernel} {
		release, err := m.use(ctx, name)
		if err != nil {
			return nil, err
		}
		defer release()
	}
	spec, err := m.specify(ctx, e, report)
	if err != nil {
		return nil, err
	}
	networks, err := m.networks(netip.MustParseAddr(record.Address), report.Warn)
	if err != nil {
		return nil, err
	}
	chosen, err := m.choose(ctx, record.VMM, networks)
	if err != nil {
		return nil, err
	}
	if err := m.clearRun(ctx, record.ID); err != nil {
		return nil, err
	}
	if err := m.change(ctx, e, func(r *store.VM) { r.Pending, r.VMMReason = store.PendingStart, chosen.reason }); err != nil {
		return nil, m.noSpace(err, fmt.Sprintf("cannot start the VM %q", record.Name))
	}
	if err := os.MkdirAll(spec.RunDir, 0o700); err != nil {
		return nil, m.noSpace(fmt.Errorf("cannot create the directory for the VM's sockets: %w", err), fmt.Sprintf("cannot start the VM %q", record.Name))
	}
	passed, err := m.inherit(ctx, spec.RunDir, environment, report)
	if err != nil {
		return nil, m.noSpace(err, fmt.Sprintf("cannot start the VM %q", record.Name))
	}
	report.Step("booting")
	disconnect, err := m.connect(ctx, chosen.driver, networks, record, &spec, passed.Relays, report)
	if err != nil {
		return nil, err
	}
	if err := m.noteAccess(spec); err != nil {
		return nil, errors.Join(m.noSpace(err, fmt.Sprintf("cannot start the VM %q", record.Name)), disconnect())
	}
	machine, err := chosen.driver.Boot(ctx, spec)
	if err != nil {
		return nil, errors.Join(err, disconnect())
	}
	now := time.Now().UTC().Truncate(time.Millisecond)
	handle := machine.Handle()
	if spec.NIC != nil {
		handle.Network = spec.NIC.Mode
	}
	m.mu.Lock()
	e.machine = machine
	err = m.changeLocked(ctx, e, func(r *store.VM) { r.Handle, r.Started = &handle, &now })
	m.mu.Unlock()
	m.watch(ctx, e, machine)
	return machine, err
}

// specify makes what is to be booted out of a VM's record.
func (m *Manager) specify(ctx context.Context, e *entry, report progress.Func) (vmm.Spec, error) {
	record := m.look(e).record
	image, err := m.config.Image(ctx, record.Image, report)
	if err != nil {
		return vmm.Spec{}, err
	}
	if image.Digest != record.ImageDigest {
		return vmm.Spec{}, &api.Error{
			Kind:    api.KindState,
			Message: fmt.Sprintf("cannot start the VM %q: the image %q is another one than it was made from", record.Name, record.Image),
			Hint:    "what it wrote cannot be put on another image; create a new VM",
		}
	}
	kernel, err := m.config.Kernel(ctx, record.Kernel, report)
	if err != nil {
		return vmm.Spec{}, err
	}
	// A guest can run on any kernel: the record follows.
	if kernel.Digest != record.KernelDigest {
		if err := m.change(ctx, e, func(r *store.VM) { r.KernelDigest = kernel.Digest }); err != nil {
			return vmm.Spec{}, err
		}
	}
	dir := m.config.Dirs.VM(record.ID)
	if err := disk.Grow(workDisk(dir), record.DiskBytes); err != nil {
		return vmm.Spec{}, err
	}
	return vmm.Spec{
		ID: record.ID, RunDir: m.config.Dirs.Run(record.ID), ConsoleLog: consoleLog(dir), VMMLog: vmmLog(dir), Metrics: metricsLog(dir),
		Kernel: kernel.Vmlinux, Initramfs: kernel.Initramfs, Cmdline: m.config.Cmdline, VCPU: record.VCPU, MemoryMiB: record.MemoryMiB,
		// The guest knows them by this order.
		Disks: []vmm.Disk{
			{Path: image.Path, ReadOnly: true},
			{Path: overlayDisk(dir), Volatile: record.Ephemeral},
			{Path: workDisk(dir), Volatile: record.Ephemeral},
			{Path: kernel.Modules, ReadOnly: true},
		},
	}, nil
}

// meet waits for the guest, makes it this VM and gives a new one its files.
func (m *Manager) meet(ctx context.Context, e *entry, machine vmm.Machine, report progress.Func) error {
	if err := m.configure(ctx, e, machine, report); err != nil {
		return err
	}
	return m.syncFiles(ctx, e, machine, report)
}

// met ends the start of a VM whose guest was met.
func (m *Manager) met(ctx context.Context, e *entry) error {
	m.forward(e)
	return m.change(ctx, e, func(r *store.VM) { r.Pending, r.LastError, r.FilesSynced = store.PendingNone, "", true })
}

// configure waits for the guest's agent and makes the guest this VM.
func (m *Manager) configure(ctx context.Context, e *entry, machine vmm.Machine, report progress.Func) error {
	report.Step("waiting for the guest")
	limit := m.config.BootTimeout(machine.Handle().Accelerator)
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("its guest did not answer within %v", limit))
	defer cancel()
	guest := agent.New(machine.DialAgent)
	if err := m.greet(ctx, e, guest, machine); err != nil {
		return err
	}
	configuration, err := m.configuration(e)
	if err != nil {
		return err
	}
	report.Step("configuring the guest")
	if err := guest.Configure(ctx, configuration); err != nil {
		return m.explain(ctx, e, machine, fmt.Errorf("cannot configure its guest: %w", err))
	}
	return nil
}

const helloTimeout = 10 * time.Second

// greet tries until the guest answers, or cannot any more.
func (m *Manager) greet(ctx context.Context, e *entry, guest *agent.Client, machine vmm.Machine) error {
	const first, longest = 2 * time.Millisecond, 50 * time.Millisecond
	for wait := first; ; wait = min(2*wait, longest) {
		// An attempt that got lost in a guest that was not ready must not
		// take all the time there is.
		attempt, cancel := context.WithTimeout(ctx, helloTimeout)
		_, err := guest.Hello(attempt)
		cancel()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return m.explain(ctx, e, machine, err)
		case <-machine.Done():
			return &vmm.ConsoleError{Err: errNeverAnswered, Tail: m.tail(m.look(e).record.ID)}
		case <-time.After(wait):
		}
	}
}

// explain says why a guest did not come up.
func (m *Manager) explain(ctx context.Context, e *entry, machine vmm.Machine, err error) error {
	select {
	case <-machine.Done():
		err = errors.New("its VMM ended")
	default:
		if ctx.Err() != nil {
			err = fmt.Errorf("%w (%w)", context.Cause(ctx), err)
		}
	}
	return &vmm.ConsoleError{Err: err, Tail: m.tail(m.look(e).record.ID)}
}

// tail returns the end of a guest's console, or of the VMM's log where the
// guest has not said a thing: one line that is safe to print.
func (m *Manager) tail(id string) string {
	dir := m.config.Dirs.VM(id)
	for _, path := range []string{consoleLog(dir), vmmLog(dir)} {
		text, err := readTail(path, 2048)
		if err != nil {
			m.log.Warn("cannot read a VM's log", "path", filepath.Base(path), "error", err)
			continue
		}
		lines := strings.FieldsFunc(text, func(r rune) bool { return r == '\n' || r == '\r' })
		if len(lines) > 3 {
			lines = lines[len(lines)-3:]
		}
		if len(lines) > 0 {
			return printable(strings.Join(lines, " | "))
		}
	}
	return ""
}

// printable drops what a guest could do to the terminal of its reader.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == '\uFFFD' || (r >= 0x80 && r < 0xa0) {
			return -1
		}
		return r
	}, text)
}

func readTail(path string, n int64) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return "", err
	}
	buffer := make([]byte, min(n, info.Size()))
	read, err := file.ReadAt(buffer, info.Size()-int64(len(buffer)))
	if read == 0 && err != nil && info.Size() > 0 {
		return "", err
	}
	return string(buffer[:read]), nil
}

// configuration is what makes a blank guest this VM.
func (m *Manager) configuration(e *entry) (wire.Configuration, error) {
	record := m.look(e).record
	keys, err := m.config.AuthorizedKeys()
	if err != nil {
		return wire.Configuration{}, err
	}
	passed, err := inherited(m.config.Dirs.Run(record.ID))
	if err != nil {
		return wire.Configuration{}, err
	}
	network := m.networkOf(record.Handle)
	entropy := make([]byte, 64)
	rand.Read(entropy) // never fails
	return wire.Configuration{
		Hostname:       record.Name,
		MachineID:      record.MachineID,
		Interface:      &wire.Interface{MAC: record.MAC, Address: inPlan(record.Address), Gateway: plan.Gateway.String(), MTU: network.MTU},
		DNS:            []string{network.DNS},
		AuthorizedKeys: keys,
		HostKeys:       record.HostKeys,
		Time:           time.Now().UTC(),
		Entropy:        entropy,
		Environment:    passed.Environment,
		Certificates:   passed.Certificates,
	}, nil
}

// live returns the VM's machine if it runs. One that has ended is forgotten.
func (m *Manager) live(ctx context.Context, e *entry) vmm.Machine {
	machine := m.look(e).machine
	if machine == nil {
		return nil
	}
	select {
	case <-machine.Done():
		m.ended(ctx, e, machine)
		return nil
	default:
		return machine
	}
}

// watch forgets the machine when its process is gone, and until then looks
// after it. Only then it lets go of it, or the process would not be reaped.
func (m *Manager) watch(ctx context.Context, e *entry, machine vmm.Machine) {
	record := m.look(e).record
	m.wait.Go(func() {
		tick := time.NewTicker(lookInterval)
		defer tick.Stop()
		for {
			select {
			case <-machine.Done():
				m.ended(ctx, e, machine)
				if err := machine.Close(); err != nil {
					m.log.WarnContext(ctx, "cannot let go of a VMM", "vm", record.Name, "error", err)
				}
				return
			case <-m.background.Done():
				return
			case <-tick.C:
				m.lookAfter(m.background, record.Name, m.config.Dirs.VM(record.ID), machine) //nolint:contextcheck // not an operation of anybody
			}
		}
	})
}

// ended notes that a machine is gone. It is called by who sees it first, and
// by the others without effect.
func (m *Manager) ended(ctx context.Context, e *entry, machine vmm.Machine) {
	name, grave, first := m.forget(ctx, e, machine)
	if !first {
		return
	}
	if err := os.RemoveAll(grave); err != nil {
		m.log.WarnContext(ctx, "cannot remove a VM's sockets", "vm", name, "error", err)
	}
}

// forget parts a VM from its machine, and says whether it still had it. What is
// left of the machine is at grave then: moved there before the next start can
// make the same directory again, and removed without a lock.
func (m *Manager) forget(ctx context.Context, e *entry, machine vmm.Machine) (name, grave string, first bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if e.machine != machine {
		return "", "", false
	}
	e.machine = nil
	if e.forwarding != nil {
		e.forwarding.Close()
		e.forwarding = nil
	}
	// An operation that is in the middle of a start ends that itself. The record
	// of a VM that is being deleted goes as a whole.
	if e.record.Pending != store.PendingDelete {
		if err := m.changeLocked(ctx, e, func(r *store.VM) { r.Handle, r.Started = nil, nil }); err != nil {
			m.log.ErrorContext(ctx, "cannot record the end of a VM", "vm", e.record.Name, "error", err)
		}
	}
	dir := m.config.Dirs.Run(e.record.ID)
	if err := os.Rename(dir, dir+graveSuffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
		m.log.WarnContext(ctx, "cannot move a VM's sockets away", "vm", e.record.Name, "error", err)
	}
	return e.record.Name, dir + graveSuffix, true
}
