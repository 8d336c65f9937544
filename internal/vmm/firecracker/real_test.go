package firecracker_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"banger/internal/agent/wire"
	"banger/internal/disk"
	"banger/internal/vmm"
	"banger/internal/vmm/kvm"
	"banger/internal/vmm/vmmtest"
)

// realOne returns the Firecracker that BANGER_TEST_FIRECRACKER names, and what
// KVM there is for it.
func realOne(t *testing.T) (string, func(context.Context) kvm.Verdict) {
	t.Helper()
	binary := os.Getenv("BANGER_TEST_FIRECRACKER")
	if binary == "" {
		t.Skip("NOT TESTED with the real firecracker: BANGER_TEST_FIRECRACKER names none; see test/lab")
	}
	verdict := kvm.Probe(t.Context(), kvm.Device, t.TempDir())
	if !verdict.Working {
		t.Skipf("NOT TESTED with the real firecracker: %s; see test/lab", verdict.Reason)
	}
	t.Logf("KVM runs %.0f million instructions a second", verdict.Speed/1e6)
	return binary, func(context.Context) kvm.Verdict { return verdict }
}

// TestReal runs the contract on the real Firecracker with a guest that does
// nothing.
func TestReal(t *testing.T) {
	binary, verdict := realOne(t)
	t.Logf("%+v", driverOf(binary, verdict)(t).Probe(t.Context()))
	vmmtest.Run(t, vmmtest.Harness{
		Driver: driverOf(binary, verdict), Spec: newSpec, Kernel: true, Timeout: 2 * time.Minute, Serial: true,
	})
}

// TestRealGuest runs the contract on the real Firecracker with a real guest,
// whose parts are named by variables.
func TestRealGuest(t *testing.T) {
	binary, verdict := realOne(t)
	part := func(name string) string {
		path := os.Getenv("BANGER_TEST_" + name)
		if path == "" {
			t.Skipf("NOT TESTED with a real guest: BANGER_TEST_%s names no file; see test/lab", name)
		}
		return path
	}
	base := vmm.Spec{
		VCPU: 1, MemoryMiB: 768, Kernel: part("KERNEL"), Initramfs: part("INITRAMFS"),
		Disks: []vmm.Disk{{Path: part("IMAGE"), ReadOnly: true}, {}, {}, {Path: part("MODULES"), ReadOnly: true}},
	}
	vmmtest.Run(t, vmmtest.Harness{
		Driver: driverOf(binary, verdict),
		Spec: func(tb testing.TB) vmm.Spec {
			tb.Helper()
			own := newSpec(tb)
			spec := base
			spec.ID, spec.RunDir, spec.ConsoleLog, spec.VMMLog = own.ID, own.RunDir, own.ConsoleLog, own.VMMLog
			spec.Disks = append([]vmm.Disk(nil), base.Disks...)
			for i, role := range []string{"overlay-disk", "work-disk"} {
				path := filepath.Join(filepath.Dir(own.ConsoleLog), role)
				if err := disk.Create(tb.Context(), path, 2<<30); err != nil {
					tb.Fatal(err)
				}
				spec.Disks[1+i].Path = path
			}
			return spec
		},
		Agent: true, Exec: true, Kernel: true, Timeout: 5 * time.Minute, Serial: true,
		Configuration: wire.Configuration{Hostname: "test", MachineID: "0123456789abcdef0123456789abcdef", Time: time.Now()},
	})
}
