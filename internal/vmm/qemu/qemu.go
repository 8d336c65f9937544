// Package qemu runs guests on QEMU's microvm machine: on KVM where that works,
// with QEMU's own emulation where it does not.
package qemu

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"banger/internal/undo"
	"banger/internal/vmm"
	"banger/internal/vmm/cgroup"
	"banger/internal/vmm/kvm"
	"banger/internal/vmm/launch"
	"banger/internal/vmm/launch/launcher"
	"banger/internal/vmm/process"
	"banger/internal/vmm/qemu/qmp"
)

// Name is that of the driver.
const Name = "qemu"

// Options of a [Driver]. KVM and Log are needed, and Launcher to boot.
type Options struct {
	// Launcher is an executable that runs [launcher.Main] when its first
	// argument is [launcher.Subcommand].
	Launcher string
	// Binary overrides the search for QEMU in PATH; empty does not.
	Binary string
	// KVM says whether guests can run on KVM; it should cache.
	KVM func(ctx context.Context) kvm.Verdict
	// Scope, if it is not nil, has cgroups for VMMs.
	Scope *cgroup.Scope
	Log   *slog.Logger
}

// Driver is the [vmm.Driver] for QEMU. Make it with [New].
type Driver struct {
	options Options

	mu    sync.Mutex
	found *found // what Probe found, once it did
}

var _ vmm.Driver = (*Driver)(nil)

// New returns a driver. It looks at nothing yet.
func New(options Options) *Driver { return &Driver{options: options} }

// Name implements [vmm.Driver].
func (d *Driver) Name() string { return Name }

// Probe implements [vmm.Driver]. What makes QEMU usable is remembered, what
// does not is looked at again each time.
func (d *Driver) Probe(ctx context.Context) vmm.Capability {
	found, err := d.look(ctx)
	if err != nil {
		return vmm.Capability{Reasons: []string{fmt.Sprintf("cannot look for QEMU: %v", err)}}
	}
	return found.capability
}

func (d *Driver) look(ctx context.Context) (found, error) {
	d.mu.Lock()
	known := d.found
	d.mu.Unlock()
	if known != nil {
		return *known, nil
	}
	found, err := d.probe(ctx)
	if err != nil || !found.capability.Usable {
		return found, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.found == nil { // another caller may have been quicker
		d.found = &found
	}
	return *d.found, nil
}

// Boot implements [vmm.Driver]. Where QEMU does not start on KVM although the
// probe liked it, the guest is emulated, and so are all later ones.
func (d *Driver) Boot(ctx context.Context, spec vmm.Spec) (vmm.Machine, error) {
	found, err := d.look(ctx)
	if err != nil {
		return nil, fmt.Errorf("cannot look for QEMU: %w", err)
	}
	if !found.capability.Usable {
		return nil, fmt.Errorf("cannot start QEMU: %s", strings.Join(found.capability.Reasons, "; "))
	}
	if err := context.Cause(ctx); err != nil {
		return nil, fmt.Errorf("cannot start QEMU: %w", err)
	}
	// One connection for both attempts: the network ends with it.
	network, err := connect(ctx, spec.NIC)
	if err != nil {
		return nil, err
	}
	defer func() {
		for _, file := range network {
			_ = file.Close()
		}
	}()
	m, err := d.start(ctx, spec, found, network)
	if _, died := errors.AsType[*vmm.ConsoleError](err); !died || !found.host.kvm {
		return machineOr(m, err)
	}
	emulated := found
	emulated.host.kvm = false
	emulated.capability.Accelerated = false
	emulated.capability.Reasons = []string{"guests are emulated, which is slower, since QEMU does not start on KVM here: " + err.Error()}
	m, retryErr := d.start(ctx, spec, emulated, network)
	if retryErr != nil {
		return nil, err // so it was not KVM's fault
	}
	d.options.Log.WarnContext(ctx, "QEMU does not start on KVM, emulating", "error", err)
	d.mu.Lock()
	d.found = &emulated
	d.mu.Unlock()
	return m, nil
}

// machineOr keeps a nil *machine from becoming an interface that is not nil.
func machineOr(m *machine, err error) (vmm.Machine, error) {
	if err != nil {
		return nil, err
	}
	return m, nil
}

func (d *Driver) start(ctx context.Context, spec vmm.Spec, found found, network []*os.File) (_ *machine, err error) {
	args, err := arguments(spec, found.host)
	if err != nil {
		return nil, err
	}
	var steps undo.Stack
	defer steps.OnError(&err)
	qmpPath, agentPath := filepath.Join(spec.RunDir, qmpSocket), filepath.Join(spec.RunDir, agentSocket)
	for _, path := range []string{qmpPath, agentPath} {
		if err := vmm.RemoveSocket(path); err != nil {
			return nil, err
		}
		steps.Add(func() error { return vmm.RemoveSocket(path) })
	}
	console, err := vmm.CreateLog(spec.ConsoleLog)
	if err != nil {
		return nil, err
	}
	_ = console.Close()
	log, err := vmm.CreateLog(spec.VMMLog)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	child, confinement, err := launch.Start(ctx, d.options.Launcher, launch.Command{
		Path: found.capability.Binary, Args: args, Log: log, Files: network, Grant: grant(spec, found.host),
		Name: spec.ID, Limits: launch.LimitsOf(spec), Scope: d.options.Scope,
	})
	if err != nil {
		return nil, err
	}
	steps.Add(func() error {
		killCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), vmm.KillTimeout)
		defer cancel()
		return errors.Join(child.Kill(killCtx), child.Close())
	})
	if err := awaitRunning(ctx, child, qmpPath); err != nil {
		select {
		case <-child.Done():
			return nil, &vmm.ConsoleError{Err: errors.New("cannot start QEMU: it ended at once"), Tail: vmm.Tail(spec.VMMLog)}
		default:
			return nil, fmt.Errorf("cannot start QEMU: %w", err)
		}
	}
	accelerator := vmm.AcceleratorTCG
	if found.host.kvm {
		accelerator = vmm.AcceleratorKVM
	}
	id := child.Identity()
	return newMachine(vmm.Handle{
		Driver: Name, PID: id.PID, StartTime: id.StartTime, BootID: id.BootID,
		RunDir: spec.RunDir, Accelerator: accelerator, Version: found.capability.Version, Confinement: confinement.Layers(),
	}, child), nil
}

// grant is what QEMU may use: a pure function of what it is to run.
func grant(spec vmm.Spec, on host) launcher.Grant {
	var devices []string
	if on.kvm {
		devices = append(devices, kvm.Device)
	}
	grant := launch.GrantOf(spec, devices...)
	grant.Internet = spec.NIC != nil && spec.NIC.Mode == vmm.NetworkUser
	return grant
}

// connect returns what QEMU gets of its network: the connection to it, or
// nothing. A TAP device it opens itself, and makes if root runs it and there is
// none: that is an error.
func connect(ctx context.Context, nic *vmm.NIC) ([]*os.File, error) {
	if nic == nil || nic.Mode == vmm.NetworkUser {
		return nil, nil
	}
	if nic.Mode == vmm.NetworkTAP {
		// In the network that this process is in, which /sys need not show.
		if _, err := net.InterfaceByName(nic.TAP); err != nil {
			return nil, fmt.Errorf("cannot connect the VM to its network: the device %q: %w", nic.TAP, err)
		}
		return nil, nil
	}
	file, err := vmm.DialNetwork(ctx, nic.Socket)
	if err != nil {
		return nil, err
	}
	return []*os.File{file}, nil
}

// startTimeout bounds the wait for a QEMU that neither dies nor answers. It
// takes 0.1 s on a host that is idle.
const startTimeout = 2 * time.Minute

// awaitRunning returns when QEMU says that the guest runs.
func awaitRunning(ctx context.Context, child *process.Process, socket string) error {
	ctx, stop := context.WithTimeoutCause(ctx, startTimeout, errors.New("it does not answer"))
	defer stop()
	ctx, letGo := child.Context(ctx)
	defer letGo()
	for {
		err := queryRunning(ctx, socket)
		if err == nil {
			return nil
		}
		if cause := context.Cause(ctx); cause != nil {
			return cause
		}
		// Not there yet, or on its way out: then its end is about to be seen.
		select {
		case <-ctx.Done():
		case <-time.After(pollInterval):
		}
	}
}

// pollInterval is between looks whether QEMU's socket is there.
const pollInterval = 3 * time.Millisecond

func queryRunning(ctx context.Context, socket string) error {
	client, err := qmp.Dial(ctx, socket, nil)
	if err != nil {
		return err
	}
	defer func() { _ = client.Close() }()
	var status struct {
		Running bool   `json:"running"`
		Status  string `json:"status"`
	}
	if err := client.Execute(ctx, "query-status", nil, &status); err != nil {
		return err
	}
	if !status.Running {
		return fmt.Errorf("the guest does not run: its state is %q", status.Status)
	}
	return nil
}

// Adopt implements [vmm.Driver].
func (d *Driver) Adopt(ctx context.Context, handle vmm.Handle) (vmm.Machine, error) {
	child, err := launch.Adopt(ctx, Name, handle, func(ctx context.Context) error {
		client, err := qmp.Dial(ctx, filepath.Join(handle.RunDir, qmpSocket), nil)
		if err != nil {
			return err
		}
		return client.Close()
	})
	if err != nil {
		return nil, err
	}
	return newMachine(handle, child), nil
}

// Reap ends the QEMU that has its sockets in runDir, if there is one, and waits
// for its end. It is for a start that was killed before anybody knew the
// process: only what answers on the socket in there is taken for it.
func (d *Driver) Reap(ctx context.Context, runDir string) error {
	return process.Reap(ctx, filepath.Join(runDir, qmpSocket))
}
