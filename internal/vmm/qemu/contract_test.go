package qemu_test

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"banger/internal/agent/wire"
	"banger/internal/disk"
	"banger/internal/image"
	"banger/internal/kernel"
	"banger/internal/vmm"
	"banger/internal/vmm/kvm"
	"banger/internal/vmm/qemu"
	"banger/internal/vmm/vmmtest"
	"banger/test/base"
)

// emulated makes drivers that do not use KVM, so that all hosts do the same.
func emulated(tb testing.TB) vmm.Driver {
	tb.Helper()
	return qemu.New(qemu.Options{
		Launcher: self,
		KVM:      func(context.Context) kvm.Verdict { return kvm.Verdict{Reason: "this test does without"} },
		Log:      slog.New(slog.DiscardHandler),
	})
}

func needQEMU(t *testing.T) {
	t.Helper()
	if c := emulated(t).Probe(t.Context()); !c.Usable {
		t.Skipf("NOT TESTED: no usable QEMU on this host: %v", c.Reasons)
	}
}

// newSpec returns a VM of two disks without kernel.
func newSpec(tb testing.TB) vmm.Spec {
	tb.Helper()
	// Characters that mean something to QEMU's options.
	dir := filepath.Join(tb.TempDir(), "a, b=c")
	if err := os.Mkdir(dir, 0o700); err != nil {
		tb.Fatal(err)
	}
	spec := vmmtest.Spec(tb, dir)
	spec.NIC = &vmm.NIC{Mode: vmm.NetworkUser, MAC: "52:54:00:00:00:02", Address: "172.16.0.2/24"}
	return spec
}

func haltedSpec(tb testing.TB) vmm.Spec {
	tb.Helper()
	spec := newSpec(tb)
	spec.Kernel = filepath.Join(tb.TempDir(), "kernel")
	vmmtest.WriteHaltedKernel(tb, spec.Kernel)
	return spec
}

// TestHalted runs the contract on the real QEMU with a guest that does nothing.
func TestHalted(t *testing.T) {
	t.Parallel()
	needQEMU(t)
	vmmtest.Run(t, vmmtest.Harness{Driver: emulated, Spec: haltedSpec, Kernel: true, Timeout: 2 * time.Minute, Serial: true})
}

func TestDiesAtOnce(t *testing.T) {
	t.Parallel()
	needQEMU(t)
	empty := filepath.Join(t.TempDir(), "empty")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name, want string
		spoil      func(*vmm.Spec)
	}{
		{"a kernel that is none", "kernel", func(s *vmm.Spec) { s.Kernel = empty }},
		{"more memory than there is", "memory", func(s *vmm.Spec) { s.MemoryMiB = 1 << 30 }},
		{"an odd hardware address", "mac", func(s *vmm.Spec) { s.NIC.MAC = "x" }},
	} {
		spec := haltedSpec(t)
		test.spoil(&spec)
		m, err := emulated(t).Boot(t.Context(), spec)
		if err == nil {
			_ = m.Kill(t.Context())
			t.Errorf("%s: booted", test.name)
			continue
		}
		died, ok := errors.AsType[*vmm.ConsoleError](err)
		if !ok || !strings.Contains(died.Tail, test.want) {
			t.Errorf("%s: %v", test.name, err)
		}
		t.Logf("%s: %v", test.name, err)
	}
}

func TestNetworkThatIsNotThere(t *testing.T) {
	t.Parallel()
	needQEMU(t)
	const mac = "52:54:00:00:00:02"
	for _, nic := range []vmm.NIC{
		{Mode: vmm.NetworkTAP, MAC: mac, TAP: "bangernothere"}, // QEMU run by root would make it
		{Mode: vmm.NetworkStream, MAC: mac, Socket: "/nonexistent/socket"},
	} {
		spec := haltedSpec(t)
		spec.NIC = &nic
		m, err := emulated(t).Boot(t.Context(), spec)
		if err == nil {
			_ = m.Kill(t.Context())
			t.Errorf("%s: booted", nic.Mode)
		}
		if err != nil && !strings.Contains(err.Error(), "cannot connect the VM to its network: ") {
			t.Errorf("%s: %v", nic.Mode, err)
		}
	}
}

// TestBadKVM has a probe that likes a KVM on which QEMU does not start.
func TestBadKVM(t *testing.T) {
	t.Parallel()
	needQEMU(t)
	driver := qemu.New(qemu.Options{
		Launcher: self,
		Binary:   testdata(t, "qemu-without-kvm"),
		KVM:      func(context.Context) kvm.Verdict { return kvm.Verdict{Working: true} },
		Log:      slog.New(slog.DiscardHandler),
	})
	if c := driver.Probe(t.Context()); !c.Usable || !c.Accelerated || len(c.Reasons) > 0 {
		t.Errorf("capability before the first boot: %+v", c)
	}
	m, err := driver.Boot(t.Context(), haltedSpec(t))
	if err != nil {
		t.Fatal(err)
	}
	if accelerator := m.Handle().Accelerator; accelerator != "tcg" {
		t.Errorf("runs on %s", accelerator)
	}
	if err := m.Kill(t.Context()); err != nil {
		t.Error(err)
	}
	if c := driver.Probe(t.Context()); !c.Usable || c.Accelerated || !strings.Contains(c.Reasons[0], "kvm run failed") {
		t.Errorf("capability after it: %+v", c)
	}
	spec := haltedSpec(t)
	spec.Kernel = "/nonexistent/kernel"
	if _, err := driver.Boot(t.Context(), spec); err == nil || !strings.Contains(err.Error(), "kernel") {
		t.Errorf("a boot that fails for another reason: %v", err)
	}
}

func testdata(t *testing.T, name string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func TestNotInstalled(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	c := emulated(t).Probe(t.Context())
	if c.Usable || len(c.Reasons) != 1 || !strings.Contains(c.Reasons[0], "package qemu-system-x86") {
		t.Errorf("capability %+v", c)
	}
}

func TestUnusable(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ binary, want string }{
		{"/nonexistent/qemu", `the configured QEMU "/nonexistent/qemu" cannot be run: `},
		{testdata(t, "qemu-too-old"), "QEMU 6.2.0 is too old: 7.2 or newer is needed"},
		{testdata(t, "qemu-broken"), "does not tell its version: exit status 127: error while loading shared libraries"},
	} {
		driver := qemu.New(qemu.Options{
			Launcher: self,
			Binary:   test.binary,
			KVM:      func(context.Context) kvm.Verdict { return kvm.Verdict{Working: true} },
			Log:      slog.New(slog.DiscardHandler),
		})
		c := driver.Probe(t.Context())
		if c.Usable || len(c.Reasons) != 1 || !strings.Contains(c.Reasons[0], test.want) {
			t.Errorf("%s: %+v", test.binary, c)
		}
		if m, err := driver.Boot(t.Context(), newSpec(t)); m != nil || err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: boot: %v, %v", test.binary, m, err)
		}
	}
}

// TestGuest runs the contract on a real guest, as part of make e2e.
func TestGuest(t *testing.T) {
	t.Parallel()
	if os.Getenv("BANGER_E2E") == "" {
		t.Skip("NOT TESTED with a real guest: set BANGER_E2E=1, or run: make e2e")
	}
	if c := emulated(t).Probe(t.Context()); !c.Usable {
		t.Fatalf("no usable QEMU on this host: %v", c.Reasons)
	}
	shared := guestSpec(t)
	vmmtest.Run(t, vmmtest.Harness{
		Driver: emulated,
		Spec: func(tb testing.TB) vmm.Spec {
			tb.Helper()
			own := newSpec(tb)
			spec := shared
			spec.ID, spec.RunDir, spec.ConsoleLog, spec.VMMLog, spec.NIC = own.ID, own.RunDir, own.ConsoleLog, own.VMMLog, own.NIC
			spec.Disks = append([]vmm.Disk(nil), shared.Disks...)
			for i, role := range []string{"overlay", "work"} {
				path := filepath.Join(filepath.Dir(own.Disks[0].Path), role)
				if err := disk.Create(tb.Context(), path, 2<<30); err != nil {
					tb.Fatal(err)
				}
				spec.Disks[1+i].Path = path
			}
			return spec
		},
		Agent: true, Exec: true, Kernel: true,
		Configuration: wire.Configuration{
			Hostname: "test", MachineID: "0123456789abcdef0123456789abcdef", Time: time.Now(),
			Interface: &wire.Interface{MAC: "52:54:00:00:00:02", Address: "172.16.0.2/24", Gateway: "172.16.0.1"},
			DNS:       []string{"172.16.0.3"},
		},
		Timeout: 5 * time.Minute,
		Serial:  true,
	})
}

// guestSpec is what all real guests share: disks 1 and 2 are each guest's own.
func guestSpec(t *testing.T) vmm.Spec {
	t.Helper()
	prefix := t.TempDir()
	dir, err := base.Prepare(t.Context(), filepath.Join("..", "..", ".."), prefix, os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	state := base.State(dir)
	kernels := kernel.New(kernel.Options{
		Dir: filepath.Join(state, "kernels"), CacheDir: t.TempDir(), Log: slog.New(slog.DiscardHandler),
	})
	krn, err := kernels.Get(base.Kernel)
	if err != nil {
		t.Fatal(err)
	}
	images, err := image.Open(filepath.Join(state, "images"), image.Options{})
	if err != nil {
		t.Fatal(err)
	}
	img, err := images.Get(base.Image)
	if err != nil {
		t.Fatal(err)
	}
	initramfs, err := kernels.Initramfs(t.Context(), krn, base.Agent(prefix))
	if err != nil {
		t.Fatal(err)
	}
	return vmm.Spec{
		VCPU: 2, MemoryMiB: 1024,
		Kernel: krn.Vmlinux(), Initramfs: initramfs,
		Disks: []vmm.Disk{{Path: img.RootDisk(), ReadOnly: true}, {}, {}, {Path: krn.ModulesDisk(), ReadOnly: true}},
	}
}
