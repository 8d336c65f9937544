package checks_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"banger/internal/agent/wire"
	"banger/internal/api"
	"banger/internal/config"
	"banger/internal/confine"
	"banger/internal/doctor"
	"banger/internal/doctor/checks"
	"banger/internal/hostenv"
	"banger/internal/network/bridge"
	"banger/internal/network/dns"
	"banger/internal/paths"
	"banger/internal/ssh"
	"banger/internal/sshconfig"
	"banger/internal/vmm"
	"banger/internal/vmm/kvm"
)

// driver only probes.
type driver struct {
	vmm.Driver
	name  string
	found vmm.Capability
}

func (d driver) Name() string                         { return d.name }
func (d driver) Probe(context.Context) vmm.Capability { return d.found }

// healthy is a host on which every check passes.
func healthy(t *testing.T) checks.Deps {
	t.Helper()
	root, err := os.MkdirTemp("/tmp", "doctor-") //nolint:usetesting // its path would be too long for sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(root) })
	dirs := paths.Dirs{
		Config: filepath.Join(root, "config"), State: filepath.Join(root, "state"),
		Runtime: filepath.Join(root, "run"), Home: filepath.Join(root, "home"),
	}
	settings, err := config.Load(dirs)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ssh.LoadOrCreateKey(settings.SSHKeyPath); err != nil {
		t.Fatal(err)
	}
	if _, err := sshconfig.Install(filepath.Join(dirs.Home, ".ssh", "config"), dirs.SSHConfig()); err != nil {
		t.Fatal(err)
	}
	return checks.Deps{
		Dirs: dirs, Config: settings,
		Drivers: []vmm.Driver{
			driver{name: "firecracker", found: vmm.Capability{Usable: true, Accelerated: true, Binary: "/fc", Version: "1.16.1"}},
			driver{name: "qemu", found: vmm.Capability{Usable: true, Accelerated: true, Binary: "/qemu", Version: "9.0"}},
		},
		Confinement: func(context.Context) ([]confine.Layer, error) {
			return []confine.Layer{{Name: "files", On: true, Detail: "this VM's alone"}}, nil
		},
		KVM: func(context.Context) kvm.Verdict { return kvm.Verdict{Working: true} },
		Image: func(_ context.Context, name string) (api.Image, error) {
			return api.Image{Name: name, Present: true, Kernel: "k", Size: 1 << 30}, nil
		},
		Kernel: func(_ context.Context, name string) (api.Kernel, error) {
			return api.Kernel{Name: name, Present: true, Size: 1 << 20}, nil
		},
		CanFetch:        func(context.Context) error { return nil },
		Schema:          func(context.Context) (int, int, error) { return 3, 3, nil },
		NamesServer:     func(context.Context, string) (string, error) { return dns.Owner(os.Getuid()), nil },
		NamesWired:      func(context.Context) (string, error) { return dns.Owner(os.Getuid()), nil },
		HostEnvironment: func(context.Context) hostenv.Passed { return hostenv.Passed{} },
		Bridge:          func() error { return bridge.ErrNotSetUp },
		LookPath:        func(name string) (string, error) { return "/bin/" + name, nil },
	}
}

func TestHealthy(t *testing.T) {
	t.Parallel()
	rows := checks.Run(t.Context(), healthy(t))
	seen := map[string]bool{}
	for _, row := range rows {
		seen[row.Check] = true
		// The machine of the test may have little space.
		if row.Status != doctor.Pass && row.Check != "disk space" && row.Check != "architecture" {
			t.Errorf("%+v", row)
		}
		if row.Detail == "" || row.Check == "" {
			t.Errorf("nothing told: %+v", row)
		}
	}
	for _, check := range []string{
		"architecture", "configuration", "runtime directory", "KVM", "VMM firecracker", "VMM qemu", "confinement", "host tools", "image building",
		"default image", "default kernel", "database", "disk space", "ssh key", "ssh shortcut", "network", "host environment", "names", "VM defaults",
	} {
		if !seen[check] {
			t.Errorf("no row for %q", check)
		}
	}
}

func TestProblems(t *testing.T) {
	t.Parallel()
	broken := errors.New("it is\nbroken")
	hinted := &api.Error{Kind: api.KindState, Message: "no mmdebstrap", Hint: "install mmdebstrap"}
	unusable := driver{name: "firecracker", found: vmm.Capability{Reasons: []string{"no binary", "no KVM"}}}
	slow := driver{name: "qemu", found: vmm.Capability{Usable: true, Binary: "/qemu", Version: "7.2"}}
	for _, test := range []struct {
		name   string
		change func(t *testing.T, deps *checks.Deps)
		check  string
		status doctor.Status
		detail string
		hint   string
	}{
		{"bad configuration", func(_ *testing.T, d *checks.Deps) { d.ConfigErr = broken }, "configuration", doctor.Fail, "it is broken", "correct it"},
		{"foreign runtime directory", func(t *testing.T, d *checks.Deps) {
			t.Helper()
			if err := os.Mkdir(d.Dirs.Runtime, 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.Chmod(d.Dirs.Runtime, 0o755); err != nil {
				t.Fatal(err)
			}
		}, "runtime directory", doctor.Fail, "others can enter", "XDG_RUNTIME_DIR"},
		{"no KVM", func(_ *testing.T, d *checks.Deps) {
			d.KVM = func(context.Context) kvm.Verdict { return kvm.Verdict{Reason: "too slow", Hint: "buy another"} }
		}, "KVM", doctor.Warn, "too slow", "buy another"},
		{"a VMM without a network", func(_ *testing.T, d *checks.Deps) {
			d.Drivers = []vmm.Driver{driver{name: "firecracker", found: vmm.Capability{Usable: true, Accelerated: true, Version: "1.16.1", Reasons: []string{"no namespaces"}}}, slow}
		}, "VMM firecracker", doctor.Warn, "no namespaces", "user namespaces"},
		{"one VMM of two", func(_ *testing.T, d *checks.Deps) { d.Drivers = []vmm.Driver{unusable, slow} }, "VMM firecracker", doctor.Warn, "no binary; no KVM", ""},
		{"emulation", func(_ *testing.T, d *checks.Deps) { d.Drivers = []vmm.Driver{unusable, slow} }, "VMM qemu", doctor.Pass, "/qemu 7.2, by emulation", ""},
		{"the VMM that is wanted", func(_ *testing.T, d *checks.Deps) {
			d.Drivers, d.Config.VMM = []vmm.Driver{unusable, slow}, "firecracker"
		}, "VMM firecracker", doctor.Fail, "no binary", "vmm = \"auto\""},
		{"proxy and certificates", func(_ *testing.T, d *checks.Deps) {
			d.HostEnvironment = func(context.Context) hostenv.Passed {
				return hostenv.Passed{
					Proxies:      []hostenv.Proxy{{Variable: "http_proxy", Shown: "http://***@127.0.0.1:3128", Via: "172.16.0.1:3128"}},
					Certificates: []wire.Certificate{{Subject: "Our CA"}},
				}
			}
		}, "host environment", doctor.Pass, `http_proxy http://***@127.0.0.1:3128 (for them at 172.16.0.1:3128), 1 CA certificate ("Our CA")`, ""},
		{"no certificates", func(_ *testing.T, d *checks.Deps) {
			d.HostEnvironment = func(context.Context) hostenv.Passed { return hostenv.Passed{Warnings: []string{"no such file"}} }
		}, "host environment", doctor.Warn, "no such file", "host_environment"},
		{"no VMM", func(_ *testing.T, d *checks.Deps) { d.Drivers = []vmm.Driver{unusable} }, "VMM", doctor.Fail, "none", "qemu-system-x86"},
		{"a layer that is missing", func(_ *testing.T, d *checks.Deps) {
			d.Confinement = func(context.Context) ([]confine.Layer, error) {
				return []confine.Layer{{Name: "limits", On: true, Detail: "some"}, {Name: "files", Detail: "no Landlock"}}, nil
			}
		}, "confinement", doctor.Warn, "confined by limits (some); not by files (no Landlock)", "lsm="},
		{"no launcher", func(_ *testing.T, d *checks.Deps) {
			d.Confinement = func(context.Context) ([]confine.Layer, error) { return nil, broken }
		}, "confinement", doctor.Fail, "it is broken", "no VM"},
		{"a launcher that is missing", func(_ *testing.T, d *checks.Deps) {
			d.Confinement = func(context.Context) ([]confine.Layer, error) { return nil, paths.Missing("/nonexistent", nil) }
		}, "confinement", doctor.Fail, "/nonexistent", "install"},
		{"the bridge", func(_ *testing.T, d *checks.Deps) { d.Bridge = func() error { return nil } }, "network", doctor.Pass, "banger0, 172.16.0.1/24", ""},
		{"a bridge that nobody asks for", func(_ *testing.T, d *checks.Deps) {
			d.Bridge, d.Config.NetworkMode = func() error { return nil }, "user"
		}, "network", doctor.Pass, "user mode", ""},
		{"a bridge that does not fit", func(_ *testing.T, d *checks.Deps) { d.Bridge = func() error { return hinted } }, "network", doctor.Warn, "no mmdebstrap; user mode", "install mmdebstrap"},
		{"a bridge that is not there", func(_ *testing.T, d *checks.Deps) { d.Config.NetworkMode = "bridge" }, "network", doctor.Fail, "not set up", "sudo banger network setup"},
		{"no mke2fs", func(_ *testing.T, d *checks.Deps) {
			d.LookPath = func(name string) (string, error) {
				if name == "mke2fs" {
					return "", broken
				}
				return name, nil
			}
		}, "host tools", doctor.Fail, "mke2fs is missing", "e2fsprogs"},
		{"cannot fetch, need not", func(_ *testing.T, d *checks.Deps) {
			d.CanFetch = func(context.Context) error { return hinted }
		}, "image building", doctor.Warn, "no mmdebstrap", "install mmdebstrap"},
		{"cannot fetch", func(_ *testing.T, d *checks.Deps) {
			d.CanFetch = func(context.Context) error { return hinted }
			d.Kernel = func(_ context.Context, name string) (api.Kernel, error) { return api.Kernel{Name: name}, nil }
		}, "image building", doctor.Fail, "no mmdebstrap", "install mmdebstrap"},
		{"nothing fetched", func(_ *testing.T, d *checks.Deps) {
			d.Image = func(_ context.Context, name string) (api.Image, error) {
				return api.Image{Name: name, Kernel: "k"}, nil
			}
		}, "default image", doctor.Warn, "not here yet", "banger image pull debian-bookworm"},
		{"no such image", func(_ *testing.T, d *checks.Deps) {
			d.Image = func(_ context.Context, name string) (api.Image, error) { return checks.FindImage(name, nil, nil) }
		}, "default image", doctor.Fail, `no image "debian-bookworm"`, "default_image_name"},
		{"newer database", func(_ *testing.T, d *checks.Deps) {
			d.Schema = func(context.Context) (int, int, error) { return 9, 3, broken }
		}, "database", doctor.Fail, "it is broken", ""},
		{"older database", func(_ *testing.T, d *checks.Deps) {
			d.Schema = func(context.Context) (int, int, error) { return 2, 3, nil }
		}, "database", doctor.Pass, "becomes 3", ""},
		{"bad key", func(t *testing.T, d *checks.Deps) {
			t.Helper()
			if err := os.Chmod(d.Config.SSHKeyPath, 0o644); err != nil {
				t.Fatal(err)
			}
		}, "ssh key", doctor.Fail, "others can read it", ""},
		{"no shortcut", func(t *testing.T, d *checks.Deps) {
			t.Helper()
			if _, err := sshconfig.Uninstall(filepath.Join(d.Dirs.Home, ".ssh", "config")); err != nil {
				t.Fatal(err)
			}
		}, "ssh shortcut", doctor.Warn, "not set up", "ssh-config --install"},
		{"configured size", func(_ *testing.T, d *checks.Deps) { d.Config.VMDefaults.VCPU = 7 }, "VM defaults", doctor.Pass, "7 vCPU (config)", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			deps := healthy(t)
			test.change(t, &deps)
			rows := checks.Run(t.Context(), deps)
			found := false
			for _, row := range rows {
				if strings.Contains(row.Detail+row.Hint, "\n") {
					t.Errorf("more than one line: %+v", row)
				}
				if row.Check != test.check {
					continue
				}
				found = true
				if row.Status != test.status || !strings.Contains(row.Detail, test.detail) || !strings.Contains(row.Hint, test.hint) {
					t.Errorf("got %+v, want %s with %q and the hint %q", row, test.status, test.detail, test.hint)
				}
			}
			if !found {
				t.Errorf("no row %q in %+v", test.check, rows)
			}
			if doctor.Failed(rows) != (test.status == doctor.Fail) {
				t.Errorf("Failed() = %v: %+v", doctor.Failed(rows), rows)
			}
		})
	}
}

func TestChangesNothing(t *testing.T) {
	t.Parallel()
	deps := healthy(t)
	if err := os.RemoveAll(deps.Dirs.State); err != nil {
		t.Fatal(err)
	}
	checks.Run(t.Context(), deps)
	for _, dir := range []string{deps.Dirs.State, deps.Dirs.Config} {
		if _, err := os.Stat(dir); err == nil {
			t.Errorf("%s was made", dir)
		}
	}
}

func TestOldFirecracker(t *testing.T) {
	t.Parallel()
	deps := healthy(t)
	deps.Drivers = []vmm.Driver{driver{name: "firecracker", found: vmm.Capability{Usable: true, Accelerated: true, Binary: "/fc", Version: "1.12.1"}}}
	for _, row := range checks.Run(t.Context(), deps) {
		if row.Check == "VMM firecracker" {
			if row.Status != doctor.Warn || !strings.Contains(row.Detail, "CVE-") || row.Hint == "" {
				t.Errorf("row %+v", row)
			}
			return
		}
	}
	t.Error("there is no row of firecracker")
}
