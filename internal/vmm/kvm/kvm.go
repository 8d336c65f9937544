// Package kvm finds out whether /dev/kvm of this host is of any use. That it
// opens proves nothing: some hosts emulate guest code instruction by
// instruction, so that a kernel never boots there, and some refuse single
// registers, so that a VMM gives up. The probe runs guest code and judges by
// the time it takes.
package kvm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"banger/internal/atomicfile"
	"banger/internal/vmm/process"
)

// Device is where KVM is found.
const Device = "/dev/kvm"

// Verdict is what a probe found.
type Verdict struct {
	Working bool `json:"working"`
	// Reason says for the user why it is not working; empty if it is.
	Reason string `json:"reason,omitempty"`
	// Hint is what the user can do about it, if anything.
	Hint string `json:"hint,omitempty"`
	// Speed is how fast the guest code ran, in instructions a second; 0 if
	// none did.
	Speed float64 `json:"speed,omitempty"`
}

// Probe gives the verdict on device within two seconds, whatever the device
// does. It is kept in a file in cacheDir, which is made if need be, until the
// host is booted again, except where it is not final or the user can do
// something about it without a boot.
func Probe(ctx context.Context, device, cacheDir string) Verdict {
	return probe(ctx, device, cacheDir, run)
}

func probe(ctx context.Context, device, cacheDir string, run func(context.Context, string) (Verdict, bool)) Verdict {
	if verdict, ok := unopened(device); !ok {
		return verdict
	}
	bootID, err := process.BootID()
	if err != nil {
		return Verdict{Reason: err.Error()}
	}
	path := filepath.Join(cacheDir, "kvm.json")
	if verdict, ok := cached(path, device, bootID); ok {
		return verdict
	}
	verdict, final := run(ctx, device)
	if final && ctx.Err() == nil {
		// A cache that cannot be written costs the next probe its time only.
		_ = keep(path, record{Version: recordVersion, BootID: bootID, Device: device, Verdict: verdict})
	}
	return verdict
}

// unopened handles the devices that cannot be opened.
func unopened(device string) (Verdict, bool) {
	file, err := os.OpenFile(device, os.O_RDWR, 0)
	switch {
	case err == nil:
		_ = file.Close()
		return Verdict{}, true
	case errors.Is(err, os.ErrNotExist):
		return Verdict{
			Reason: device + " does not exist",
			Hint:   "enable virtualization in the firmware (VT-x or AMD-V), or nested virtualization if this is a VM, and load the kvm_intel or kvm_amd module",
		}, false
	case errors.Is(err, os.ErrPermission):
		return Verdict{
			Reason: "you may not open " + device,
			Hint:   `add yourself to the kvm group and log in again: sudo usermod -aG kvm "$USER"`,
		}, false
	default:
		return Verdict{Reason: fmt.Sprintf("%s does not open: %v", device, err)}, false
	}
}

// recordVersion changes when verdicts of older probes are no longer good.
const recordVersion = 2

// record is the cache file.
type record struct {
	Version int     `json:"version"`
	BootID  string  `json:"boot_id"`
	Device  string  `json:"device"`
	Verdict Verdict `json:"verdict"`
}

func cached(path, device, bootID string) (Verdict, bool) {
	data, err := os.ReadFile(path)
	if err != nil {
		return Verdict{}, false
	}
	var r record
	if json.Unmarshal(data, &r) != nil || r.Version != recordVersion || r.BootID != bootID || r.Device != device {
		return Verdict{}, false
	}
	return r.Verdict, true
}

func keep(path string, r record) error {
	data, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("cannot encode the KVM verdict: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("cannot create the cache directory: %w", err)
	}
	return atomicfile.Write(path, data, 0o600)
}
