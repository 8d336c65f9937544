package firecracker_test

import (
	"context"
	"os"
	"testing"
	"time"

	"banger/internal/vmm/kvm"
	"banger/internal/vmm/vmmtest"
)

// real returns the Firecracker that BANGER_TEST_FIRECRACKER names, and what
// KVM there is for it.
func real(t *testing.T) (string, func(context.Context) kvm.Verdict) {
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
	binary, verdict := real(t)
	t.Logf("%+v", driverOf(binary, verdict)(t).Probe(t.Context()))
	vmmtest.Run(t, vmmtest.Harness{
		Driver: driverOf(binary, verdict), Spec: newSpec, Kernel: true, Timeout: 2 * time.Minute, Serial: true,
	})
}
