package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"time"

	"banger/internal/api"
	"banger/internal/config"
	"banger/internal/hostenv"
	"banger/internal/image"
	"banger/internal/kernel"
	"banger/internal/network/bridge"
	"banger/internal/network/plan"
	"banger/internal/network/usernet"
	"banger/internal/paths"
	"banger/internal/progress"
	"banger/internal/ssh"
	"banger/internal/store"
	"banger/internal/version"
	"banger/internal/vm"
	"banger/internal/vmm"
	"banger/internal/vmm/cgroup"
	"banger/internal/vmm/firecracker"
	"banger/internal/vmm/kvm"
	"banger/internal/vmm/process"
	"banger/internal/vmm/qemu"
)

// Options of [Run].
type Options struct {
	Getenv func(string) string
	// Executable is this program's path: what belongs to it is found from there.
	Executable string
}

const (
	// finishTimeout is what running operations get to finish when bangerd is
	// stopped; what has not by then is undone.
	finishTimeout = 5 * time.Second
	// answerTimeout is what their answers get after that.
	answerTimeout = 5 * time.Second
	// memoryGoal is where garbage is collected more often, in bytes. Only the
	// import of an image with hundreds of thousands of files comes near it. What
	// needs more gets it: half of the CPU at most is then spent on garbage.
	memoryGoal = 140 << 20
	// garbagePercent is how much garbage there may be for what is in use, which
	// is a few MiB. With the usual 100 nearly each start of a VM collects.
	garbagePercent = 400
)

// Run is bangerd: it returns when ctx ends or a client asks for its stop, or
// at once, without an error, if another bangerd runs.
func Run(ctx context.Context, options Options) (err error) {
	began := time.Now()
	debug.SetMemoryLimit(memoryGoal)
	debug.SetGCPercent(garbagePercent)
	dirs, err := paths.New(options.Getenv)
	if err != nil {
		return err
	}
	if err := dirs.Make(); err != nil {
		return err
	}
	settings, err := config.Load(dirs)
	if err != nil {
		return err
	}
	lock, err := lockDaemon(ctx, dirs)
	if errors.Is(err, errRunning) {
		return nil
	}
	if err != nil {
		return err
	}
	defer lock.Close()
	stateLock, err := lockState(ctx, dirs)
	if err != nil {
		return err
	}
	defer stateLock.Close()
	logFile, err := openLog(dirs.DaemonLog(), maxLog)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, logFile.Close()) }()
	log := slog.New(slog.NewTextHandler(logFile, &slog.HandlerOptions{Level: settings.LogLevel}))
	defer func() {
		if err != nil {
			log.ErrorContext(ctx, "bangerd ends", "error", err)
		}
	}()

	scope := cgroup.New(ctx, log)
	db, err := store.Open(ctx, dirs.Database())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	d, err := assemble(dirs, settings, db, scope, options, log) //nolint:contextcheck // guests are answered until the end
	if err != nil {
		return err
	}
	if err := d.vms.Reconcile(ctx); err != nil {
		return err
	}
	listener, err := listen(ctx, dirs.Socket(), log)
	if err != nil {
		return err
	}
	d.background(ctx, dirs, settings)
	defer d.serveNames(ctx, settings.DNSPort)()
	defer d.guests.stop()
	return d.serve(ctx, listener, api.Daemon{
		Version: version.Version, Build: version.Build(), PID: os.Getpid(), Started: began.UTC().Truncate(time.Millisecond), Socket: dirs.Socket(),
	})
}

// daemon is bangerd with all its parts.
type daemon struct {
	vms     *vm.Manager
	guests  *guestNames
	images  *image.Store
	kernels *kernel.Store
	drivers []vmm.Driver
	log     *slog.Logger
}

func assemble(dirs paths.Dirs, settings config.Config, db *store.Store, scope *cgroup.Scope, options Options, log *slog.Logger) (*daemon, error) {
	load := func() (config.Config, error) { return config.Load(dirs) }
	images, err := image.Open(dirs.Images(), image.Options{Mirror: settings.DebianMirror, CacheDir: filepath.Join(dirs.Cache, "blobs"), Load: load})
	if err != nil {
		return nil, err
	}
	kernels := kernel.New(kernel.Options{Dir: dirs.Kernels(), CacheDir: dirs.Cache, Mirror: settings.DebianMirror, Load: load, Log: log})
	shim := paths.Program(options.Executable, paths.Shim)
	drivers := allDrivers(dirs, settings, scope, shim, log)
	agent := agentBinary(options)
	guests := &guestNames{log: log}
	certificates := new(hostenv.Files)
	onBridge := bridgeNetwork(load, guests)
	manager := vm.New(vm.Config{
		Dirs: dirs, Store: db, Drivers: drivers, Load: load, Log: log,
		Image: func(ctx context.Context, name string, report progress.Func) (vm.Image, error) {
			i, err := images.Pull(ctx, name, report)
			if err != nil {
				return vm.Image{}, err
			}
			return vm.Image{Name: i.Name, Digest: i.Digest, Path: i.RootDisk(), Kernel: i.Kernel}, nil
		},
		Kernel: func(ctx context.Context, name string, report progress.Func) (vm.Kernel, error) {
			k, err := kernels.Pull(ctx, name, report)
			if err != nil {
				return vm.Kernel{}, err
			}
			initramfs, err := kernels.Initramfs(ctx, k, agent)
			if err != nil {
				return vm.Kernel{}, err
			}
			return vm.Kernel{Name: k.Name, Digest: k.Digest, Vmlinux: k.Vmlinux(), Initramfs: initramfs, Modules: k.ModulesDisk()}, nil
		},
		AuthorizedKeys: func() ([]string, error) {
			now, err := load()
			if err != nil {
				return nil, err
			}
			key, err := ssh.LoadOrCreateKey(now.SSHKeyPath)
			return []string{key}, err
		},
		NewHostKey: ssh.NewHostKey,
		HostEnvironment: func(ctx context.Context, environment map[string]string) (hostenv.Passed, error) {
			now, err := load()
			if err != nil {
				return hostenv.Passed{}, err
			}
			options := hostenv.OnThisHost(now.HostEnvironment, plan.Gateway)
			options.Files = certificates
			return hostenv.Collect(ctx, options, environment), nil
		},
		Networks: []vm.Network{onBridge, userNetwork(shim, scope, load)},
		Forward:  forwarder(log),
		Publish:  publisher(dirs, load, options.Executable),
	})
	guests.lookup = manager.LookupGuest
	if err := onBridge.Ready(netip.Addr{}); err != nil && !errors.Is(err, bridge.ErrNotSetUp) {
		log.Warn("new VMs will not be on the bridge", "error", err)
		// Those that are there ask all the same.
		if err := guests.listen(); err != nil {
			log.Warn("guests on the bridge have no DNS", "error", err)
		}
	}
	return &daemon{vms: manager, guests: guests, images: images, kernels: kernels, drivers: drivers, log: log}, nil
}

// allDrivers are the VMM drivers there are, best first. One that the
// configuration does not name still adopts what it has started.
func allDrivers(dirs paths.Dirs, settings config.Config, scope *cgroup.Scope, launcher string, log *slog.Logger) []vmm.Driver {
	probe := func(ctx context.Context) kvm.Verdict { return kvm.Probe(ctx, kvmDevice, dirs.Cache) }
	return []vmm.Driver{
		firecracker.New(firecracker.Options{Launcher: launcher, Binary: settings.FirecrackerBin, KVM: probe, Scope: scope, Log: log}),
		qemu.New(qemu.Options{Launcher: launcher, Binary: settings.QEMUBin, KVM: probe, Scope: scope, Log: log}),
	}
}

const kvmDevice = "/dev/kvm"

// agentBinary is the guests' agent.
func agentBinary(options Options) string {
	if path := options.Getenv("BANGER_AGENT"); path != "" {
		return path
	}
	return paths.Program(options.Executable, "banger-vsock-agent")
}

// networkLimits are far from what a VM's network takes.
var networkLimits = cgroup.Limits{MemoryBytes: 2 * usernet.MemoryGoal, Threads: 256}

// userNetwork connects guests without privileges, each by a process of its
// own. What they may reach is what the configuration says when they start.
func userNetwork(shim string, scope *cgroup.Scope, load func() (config.Config, error)) vm.Network {
	return vm.Network{
		Mode: vmm.NetworkStream, DNS: plan.Gateway.String(), MTU: usernet.MTU,
		Connect: func(ctx context.Context, link vm.Link) (vmm.NIC, func() error, error) {
			guest, err := netip.ParsePrefix(link.Address)
			if err != nil {
				return vmm.NIC{}, nil, err
			}
			gateway, err := netip.ParseAddr(link.Gateway)
			if err != nil {
				return vmm.NIC{}, nil, err
			}
			settings, err := load()
			if err != nil {
				return vmm.NIC{}, nil, err
			}
			var relays []usernet.Relay
			for _, relay := range link.Relays {
				relays = append(relays, usernet.Relay(relay))
			}
			socket := filepath.Join(link.RunDir, "network.sock")
			child, err := usernet.Start(ctx, usernet.Options{
				Program: shim, Socket: socket, Log: link.Log, Name: link.Name, Guest: guest, Gateway: gateway,
				Policy: settings.Network, Relays: relays,
				Start: func(command process.Command) (*process.Process, error) {
					// Confined as it is, it does without a cgroup.
					child, _, err := scope.Start(ctx, filepath.Base(link.RunDir)+"-network", networkLimits, command)
					return child, err
				},
			})
			if err != nil {
				return vmm.NIC{}, nil, err
			}
			go func() { // held until its end, which is when it is reaped
				<-child.Done()
				_ = child.Close()
			}()
			disconnect := func() error {
				ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), vmm.KillTimeout)
				defer cancel()
				return child.Kill(ctx)
			}
			return vmm.NIC{Mode: vmm.NetworkStream, MAC: link.MAC, Socket: socket}, disconnect, nil
		},
	}
}

// publisher keeps the files for ssh.
func publisher(dirs paths.Dirs, load func() (config.Config, error), executable string) func([]store.VM) error {
	return func(vms []store.VM) error {
		settings, err := load()
		if err != nil {
			return err
		}
		hosts := make([]ssh.KnownHost, 0, len(vms))
		for _, record := range vms {
			host := ssh.KnownHost{Name: record.Name}
			for _, key := range record.HostKeys {
				host.Keys = append(host.Keys, key.Public)
			}
			hosts = append(hosts, host)
		}
		return errors.Join(
			ssh.WriteKnownHosts(dirs.KnownHosts(), hosts),
			ssh.WriteConfig(dirs.SSHConfig(), ssh.ConfigOptions{
				Key: settings.SSHKeyPath, KnownHosts: dirs.KnownHosts(), Banger: filepath.Join(filepath.Dir(executable), "banger"),
			}),
		)
	}
}

// background does what nobody has to wait for.
func (d *daemon) background(ctx context.Context, dirs paths.Dirs, settings config.Config) {
	go func() {
		ssh.RemoveLegacyConfig(ctx, dirs.Config, settings.SSHKeyPath, d.log)
		for _, sweep := range []func(context.Context) error{d.images.Sweep, d.kernels.Sweep} {
			if err := sweep(ctx); err != nil && ctx.Err() == nil {
				d.log.WarnContext(ctx, "cannot clean up a store", "error", err)
			}
		}
		for _, driver := range d.drivers {
			capability := driver.Probe(ctx)
			d.log.InfoContext(ctx, "VMM driver", "name", driver.Name(), "usable", capability.Usable, "accelerated", capability.Accelerated,
				"version", capability.Version, "reasons", strings.Join(capability.Reasons, "; "))
		}
	}()
}

// serve answers requests until ctx ends or one asks for the end. What it
// leaves running is the VMs.
func (d *daemon) serve(ctx context.Context, listener net.Listener, about api.Daemon) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	images := newImageShelf(d.images, d.vms)
	handlers := &Server{
		VMs:    d.vms,
		Images: images,
		Commit: images.Commit, Register: images.Register,
		PruneImages: d.images.Prune,
		Kernels:     newKernelShelf(d.kernels, d.vms),
		About:       about, Stop: stop, Log: d.log,
	}
	server := &http.Server{
		Handler:           handlers.Handler(),
		ReadHeaderTimeout: 10 * time.Second,
		ErrorLog:          slog.NewLogLogger(d.log.Handler(), slog.LevelWarn),
	}
	d.log.InfoContext(ctx, "bangerd answers", "version", about.Version, "build", about.Build, "pid", strconv.Itoa(about.PID), "socket", about.Socket)
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()
	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
		err = fmt.Errorf("cannot answer requests: %w", err)
	}
	return errors.Join(err, d.shutDown(context.WithoutCancel(ctx), server, handlers))
}

func (d *daemon) shutDown(ctx context.Context, server *http.Server, handlers *Server) error {
	d.log.InfoContext(ctx, "bangerd stops")
	// No new connections from here on; those there are get their answers.
	answering, cancelAnswering := context.WithTimeout(ctx, finishTimeout+answerTimeout)
	defer cancelAnswering()
	answered := make(chan error, 1)
	go func() { answered <- server.Shutdown(answering) }()
	finishing, cancelFinishing := context.WithTimeout(ctx, finishTimeout)
	defer cancelFinishing()
	err := d.vms.Close(finishing)
	handlers.streams.close()
	if shutdownErr := <-answered; shutdownErr != nil {
		// Logs that are followed have no end of their own.
		err = errors.Join(err, server.Close())
	}
	return err
}

// Report writes what ended bangerd, in the form that the client looks for.
func Report(w io.Writer, err error) {
	shown := apiError(err)
	fmt.Fprintf(w, "bangerd: %s\n", shown.Message)
	if shown.Hint != "" {
		fmt.Fprintf(w, "hint: %s\n", shown.Hint)
	}
}
