// Package host gives doctor this machine to look at.
package host

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"os"

	"banger/internal/api"
	"banger/internal/config"
	"banger/internal/confine"
	"banger/internal/doctor/checks"
	"banger/internal/hostenv"
	"banger/internal/image"
	"banger/internal/kernel"
	"banger/internal/network/bridge"
	"banger/internal/network/dns"
	"banger/internal/network/plan"
	"banger/internal/paths"
	"banger/internal/store"
	"banger/internal/tool"
	"banger/internal/vmm"
	"banger/internal/vmm/firecracker"
	"banger/internal/vmm/kvm"
	"banger/internal/vmm/launch"
	"banger/internal/vmm/qemu"
)

// Deps returns what doctor looks at on this machine. Nothing is looked at yet,
// but for the configuration. launcher is an executable that is a launcher of
// VMMs when it is told to.
func Deps(dirs paths.Dirs, launcher string) (checks.Deps, error) {
	settings, configErr := config.Load(dirs)
	if configErr != nil {
		settings = config.Defaults(dirs) // the other checks go by these
	}
	images, err := image.Open(dirs.Images(), image.Options{Mirror: settings.DebianMirror})
	if err != nil {
		return checks.Deps{}, err
	}
	log := slog.New(slog.DiscardHandler)
	kernels := kernel.New(kernel.Options{Dir: dirs.Kernels(), CacheDir: dirs.Cache, Mirror: settings.DebianMirror, Log: log})
	probe := func(ctx context.Context) kvm.Verdict { return kvm.Probe(ctx, kvm.Device, dirs.Cache) }
	return checks.Deps{
		Dirs: dirs, Config: settings, ConfigErr: configErr,
		Drivers: []vmm.Driver{
			firecracker.New(firecracker.Options{Launcher: launcher, Binary: settings.FirecrackerBin, KVM: probe, Log: log}),
			qemu.New(qemu.Options{Launcher: launcher, Binary: settings.QEMUBin, KVM: probe, Log: log}),
		},
		Confinement: func(ctx context.Context) ([]confine.Layer, error) { return launch.Check(ctx, launcher) },
		KVM:         probe,
		Image: func(_ context.Context, name string) (api.Image, error) {
			found, err := images.Get(name)
			if isNotFound(err) {
				return checks.FindImage(name, images.Available())
			}
			if err != nil {
				return api.Image{}, err
			}
			return found.API(), nil
		},
		Kernel: func(_ context.Context, name string) (api.Kernel, error) {
			found, err := kernels.Get(name)
			if err == nil {
				return found.Info(), nil
			}
			if !isNotFound(err) {
				return api.Kernel{}, err
			}
			available, availableErr := kernels.Available()
			if availableErr != nil {
				return api.Kernel{}, availableErr
			}
			for _, entry := range available {
				if entry.Name == name {
					return entry, nil
				}
			}
			return api.Kernel{}, err
		},
		CanFetch: kernel.Check,
		Schema: func(ctx context.Context) (have, want int, err error) {
			schema, err := store.CheckSchema(ctx, dirs.Database())
			return schema.Version, schema.Want, err
		},
		NamesServer: dns.Ask,
		NamesWired:  func(ctx context.Context) (string, error) { return dns.Wired(ctx, "/etc/resolv.conf") },
		HostEnvironment: func(ctx context.Context) hostenv.Passed {
			return hostenv.Collect(ctx, hostenv.OnThisHost(settings.HostEnvironment, plan.Gateway), hostenv.Select(os.Getenv))
		},
		Bridge: func() error {
			return bridge.Ready(bridge.ThisHost(), os.Getuid(), settings.Network, netip.Addr{})
		},
		LookPath: tool.Find,
	}, nil
}

func isNotFound(err error) bool {
	answered, ok := errors.AsType[*api.Error](err)
	return ok && answered.Kind == api.KindNotFound
}
