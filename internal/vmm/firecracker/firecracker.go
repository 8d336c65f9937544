// Package firecracker runs guests on Firecracker, which needs a KVM that works.
package firecracker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"banger/internal/undo"
	"banger/internal/vmm"
	"banger/internal/vmm/cgroup"
	"banger/internal/vmm/firecracker/fcapi"
	"banger/internal/vmm/kvm"
	"banger/internal/vmm/launch"
	"banger/internal/vmm/launch/launcher"
	"banger/internal/vmm/netns"
	"banger/internal/vmm/process"
)

// Name is that of the driver.
const Name = "firecracker"

// Options of a [Driver]. KVM and Log are needed, and Launcher to boot.
type Options struct {
	// Launcher is an executable that runs [launcher.Main] when its first
	// argument is [launcher.Subcommand].
	Launcher string
	// Binary overrides the search for firecracker in PATH; empty does not.
	Binary string
	// KVM says whether guests can run on KVM; it should cache.
	KVM func(ctx context.Context) kvm.Verdict
	// Scope, if it is not nil, has cgroups for VMMs.
	Scope *cgroup.Scope
	Log   *slog.Logger
}

// Driver is the [vmm.Driver] for Firecracker. Make it with [New].
type Driver struct {
	options Options

	mu    sync.Mutex
	found *vmm.Capability // what Probe found, once nothing is amiss
}

var _ vmm.Driver = (*Driver)(nil)

// New returns a driver. It looks at nothing yet.
func New(options Options) *Driver { return &Driver{options: options} }

// Name implements [vmm.Driver].
func (d *Driver) Name() string { return Name }

// Probe implements [vmm.Driver]. That all is well is remembered, what is amiss is
// looked at again each time.
func (d *Driver) Probe(ctx context.Context) vmm.Capability {
	d.mu.Lock()
	known := d.found
	d.mu.Unlock()
	if known != nil {
		return *known
	}
	capability := d.probe(ctx)
	if capability.Usable && len(capability.Reasons) == 0 {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.found = &capability
	}
	return capability
}

// Boot implements [vmm.Driver].
func (d *Driver) Boot(ctx context.Context, spec vmm.Spec) (_ vmm.Machine, err error) {
	capability := d.Probe(ctx)
	if err := context.Cause(ctx); err != nil {
		return nil, fmt.Errorf("cannot start firecracker: %w", err)
	}
	if !capability.Usable {
		return nil, fmt.Errorf("cannot start firecracker: %s", strings.Join(capability.Reasons, "; "))
	}
	plan, err := planOf(spec)
	if err != nil {
		return nil, err
	}
	var steps undo.Stack
	defer steps.OnError(&err)
	socket := filepath.Join(spec.RunDir, apiSocket)
	for _, path := range []string{socket, plan.vsock.Path} {
		// One that is left over makes firecracker refuse to start.
		if err := vmm.RemoveSocket(path); err != nil {
			return nil, err
		}
		steps.Add(func() error { return vmm.RemoveSocket(path) })
	}
	// Firecracker writes its logs from the first byte on, so they begin empty.
	console, err := vmm.CreateLog(spec.ConsoleLog)
	if err != nil {
		return nil, err
	}
	defer console.Close()
	for _, path := range []string{spec.VMMLog, spec.Metrics} {
		if path == "" {
			continue
		}
		log, err := vmm.CreateLog(path)
		if err != nil {
			return nil, err
		}
		_ = log.Close()
	}
	network, err := dialNetwork(ctx, spec.NIC)
	if err != nil {
		return nil, err
	}
	defer network.Close() // of nil does nothing but say so
	child, confinement, err := launch.Start(ctx, d.options.Launcher, launch.Command{
		Path: capability.Binary, Log: console, Grant: grant(spec), Network: network,
		Name: spec.ID, Limits: launch.LimitsOf(spec), Scope: d.options.Scope,
		Args: []string{"--api-sock", socket, "--id", spec.ID, "--log-path", spec.VMMLog, "--level", "Info"},
	})
	if err != nil {
		return nil, err
	}
	steps.Add(func() error {
		killCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), vmm.KillTimeout)
		defer cancel()
		return errors.Join(child.Kill(killCtx), child.Close())
	})
	version, err := d.instruct(ctx, child, socket, plan)
	if err != nil {
		select {
		case <-child.Done():
			// Before its log is open it complains on the console's stream.
			tail := strings.Trim(vmm.Tail(spec.ConsoleLog)+"; "+vmm.Tail(spec.VMMLog), "; ")
			return nil, &vmm.ConsoleError{Err: fmt.Errorf("cannot start firecracker: it ended at once: %w", err), Tail: tail}
		default:
			return nil, fmt.Errorf("cannot start firecracker: %w", err)
		}
	}
	id := child.Identity()
	return newMachine(vmm.Handle{
		Driver: Name, PID: id.PID, StartTime: id.StartTime, BootID: id.BootID,
		RunDir: spec.RunDir, Accelerator: vmm.AcceleratorKVM, Version: version, Confinement: confinement.Layers(),
	}, child), nil
}

// grant is what Firecracker may use: a pure function of what it is to run.
func grant(spec vmm.Spec) launcher.Grant {
	devices := []string{kvm.Device}
	if spec.NIC != nil {
		devices = append(devices, netns.Device)
	}
	return launch.GrantOf(spec, devices...)
}

// dialNetwork connects to the process that carries a guest's traffic, if there
// is one.
func dialNetwork(ctx context.Context, nic *vmm.NIC) (*os.File, error) {
	if nic == nil || nic.Mode != vmm.NetworkStream {
		return nil, nil
	}
	return vmm.DialNetwork(ctx, nic.Socket)
}

// callTimeout bounds one call of the API, which answers in milliseconds, and
// starts a guest in some 10; the rest is for busy hosts that are themselves
// emulated.
const callTimeout = 2 * time.Minute

// instruct waits for the API and makes the calls of a plan.
func (d *Driver) instruct(ctx context.Context, child *process.Process, socket string, p plan) (version string, err error) {
	ctx, stop := child.Context(ctx)
	defer stop()
	client := fcapi.New(socket)
	defer client.Close()
	client.Deprecated = func(method, path string) {
		d.options.Log.WarnContext(ctx, "firecracker says that a call is deprecated", "method", method, "path", path)
	}
	if err := awaitAPI(ctx, client, socket); err != nil {
		return "", err
	}
	call := func(do func(ctx context.Context) error) {
		if err != nil {
			return
		}
		callCtx, cancel := context.WithTimeout(ctx, callTimeout)
		defer cancel()
		if err = do(callCtx); err != nil && context.Cause(ctx) != nil {
			err = context.Cause(ctx)
		}
	}
	call(func(ctx context.Context) error { version, err = client.Version(ctx); return err })
	if p.metrics != "" {
		call(func(ctx context.Context) error { return client.PutMetrics(ctx, p.metrics) })
	}
	call(func(ctx context.Context) error { return client.PutMachineConfig(ctx, p.machine) })
	call(func(ctx context.Context) error { return client.PutBootSource(ctx, p.boot) })
	for _, drive := range p.drives {
		call(func(ctx context.Context) error { return client.PutDrive(ctx, drive) })
	}
	if p.nic != nil {
		call(func(ctx context.Context) error { return client.PutNetworkInterface(ctx, *p.nic) })
	}
	call(func(ctx context.Context) error { return client.PutVsock(ctx, p.vsock) })
	call(client.PutEntropy)
	call(client.Start)
	return version, err
}

// pollInterval is between looks whether the API's socket is there.
const pollInterval = time.Millisecond

func awaitAPI(ctx context.Context, client *fcapi.Client, socket string) error {
	for {
		// A look costs much less than a call, and Firecracker may have no
		// other CPU to start on.
		if _, err := os.Lstat(socket); err == nil {
			_, err := client.Instance(ctx)
			if err == nil || fcapi.IsRefused(err) {
				return err
			}
		}
		if cause := context.Cause(ctx); cause != nil {
			return cause
		}
		select {
		case <-ctx.Done():
		case <-time.After(pollInterval):
		}
	}
}

// Adopt implements [vmm.Driver].
func (d *Driver) Adopt(ctx context.Context, handle vmm.Handle) (vmm.Machine, error) {
	child, err := launch.Adopt(ctx, Name, handle, func(ctx context.Context) error {
		client := fcapi.New(filepath.Join(handle.RunDir, apiSocket))
		defer client.Close()
		_, err := client.Instance(ctx)
		return err
	})
	if err != nil {
		return nil, err
	}
	return newMachine(handle, child), nil
}

// Reap ends the Firecracker that has its sockets in runDir, if there is one.
// It is for a start that was killed before anybody knew the process.
func (d *Driver) Reap(ctx context.Context, runDir string) error {
	return process.Reap(ctx, filepath.Join(runDir, apiSocket))
}

// isExecutable says whether a file can be run by this user.
func isExecutable(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if info.IsDir() || info.Mode()&0o111 == 0 {
		return errors.New("it is not an executable file")
	}
	return nil
}
