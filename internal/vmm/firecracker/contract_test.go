package firecracker_test

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
	"banger/internal/vmm"
	"banger/internal/vmm/firecracker"
	"banger/internal/vmm/kvm"
	"banger/internal/vmm/vmmtest"
)

func working(context.Context) kvm.Verdict { return kvm.Verdict{Working: true} }

// driverOf makes drivers of one Firecracker, which must not say that a call of
// theirs is deprecated.
func driverOf(binary string, verdict func(context.Context) kvm.Verdict) func(testing.TB) vmm.Driver {
	return func(tb testing.TB) vmm.Driver {
		tb.Helper()
		log := slog.New(slog.NewTextHandler(failing{tb}, &slog.HandlerOptions{Level: slog.LevelWarn}))
		return firecracker.New(firecracker.Options{Launcher: self, Binary: binary, KVM: verdict, Log: log})
	}
}

// failing fails a test with what is logged.
type failing struct{ tb testing.TB }

func (f failing) Write(line []byte) (int, error) {
	f.tb.Errorf("logged: %s", line)
	return len(line), nil
}

// newSpec returns a VM with a kernel that halts, and no network.
func newSpec(tb testing.TB) vmm.Spec {
	tb.Helper()
	dir := tb.TempDir()
	spec := vmmtest.Spec(tb, dir)
	spec.Kernel = filepath.Join(dir, "kernel")
	vmmtest.WriteHaltedKernel(tb, spec.Kernel)
	return spec
}

// TestFake runs the contract on the fake.
func TestFake(t *testing.T) {
	t.Parallel()
	vmmtest.Run(t, vmmtest.Harness{
		Driver: driverOf(fake, working), Spec: newSpec, Agent: true, Kernel: true,
		Configuration: wire.Configuration{Hostname: "fake"}, Timeout: 2 * time.Minute,
	})
}

func TestRefused(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, want string
		spoil      func(*vmm.Spec)
	}{
		{"too many CPUs", "The number of vCPUs", func(s *vmm.Spec) { s.VCPU = 33 }},
		{"no memory", "memory size", func(s *vmm.Spec) { s.MemoryMiB = 0 }},
		{"no initramfs", "initrd file cannot be opened", func(s *vmm.Spec) { s.Initramfs = "/nonexistent/initramfs" }},
		{"another network", "to a network of mode", func(s *vmm.Spec) { s.NIC = &vmm.NIC{Mode: vmm.NetworkUser} }},
		{"an ID that is none", "ended at once", func(s *vmm.Spec) { s.ID = "a_b" }},
		{"a long path", "at most 107", func(s *vmm.Spec) { s.RunDir = "/tmp/" + strings.Repeat("x", 100) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			spec := newSpec(t)
			test.spoil(&spec)
			m, err := driverOf(fake, working)(t).Boot(t.Context(), spec)
			if err == nil {
				_ = m.Kill(t.Context())
				t.Fatal("booted")
			}
			if !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want %q in it", err, test.want)
			}
			if entries, err := os.ReadDir(spec.RunDir); err == nil && len(entries) > 0 {
				t.Errorf("left behind: %v", entries)
			}
		})
	}
}

func TestReap(t *testing.T) {
	t.Parallel()
	driver := firecracker.New(firecracker.Options{Launcher: self, Binary: fake, KVM: working, Log: slog.New(slog.DiscardHandler)})
	m, err := driver.Boot(t.Context(), newSpec(t))
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := driver.Reap(t.Context(), m.Handle().RunDir); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case <-m.Done():
	case <-time.After(time.Minute):
		t.Error("it runs on")
	}
	_ = m.Close()
}

func TestAdoptForeign(t *testing.T) {
	t.Parallel()
	_, err := driverOf(fake, working)(t).Adopt(t.Context(), vmm.Handle{Driver: "qemu"})
	if err == nil || errors.Is(err, vmm.ErrGone) {
		t.Errorf("adopting a VM of another driver: %v", err)
	}
}

func TestMetrics(t *testing.T) {
	t.Parallel()
	spec := newSpec(t)
	spec.Metrics = filepath.Join(filepath.Dir(spec.VMMLog), "metrics.log")
	if err := os.WriteFile(spec.Metrics, []byte("of the last boot, and longer than what comes"), 0o600); err != nil {
		t.Fatal(err)
	}
	m, err := driverOf(fake, working)(t).Boot(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = m.Close() }()
	data, err := os.ReadFile(spec.Metrics)
	if err != nil || !strings.HasPrefix(string(data), `{"utc_timestamp_ms":`) || strings.Contains(string(data), "last boot") {
		t.Errorf("metrics %q, %v", data, err)
	}
	if err := m.Kill(t.Context()); err != nil {
		t.Error(err)
	}
}
