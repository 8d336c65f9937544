package qemu

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"

	"banger/internal/vmm"
)

// binaryName is what is looked for in PATH, packageName where it is from.
const (
	binaryName  = "qemu-system-x86_64"
	packageName = "qemu-system-x86"
)

// The oldest QEMU that will do: -netdev stream is new in it.
const minMajor, minMinor = 7, 2

// found is what Probe found out.
type found struct {
	capability vmm.Capability
	host       host
}

// probe looks at the host. It does not cache. Only a ctx that ended is an
// error: all else is a reason.
func (d *Driver) probe(ctx context.Context) (found, error) {
	capability := vmm.Capability{}
	unusable := func(format string, args ...any) (found, error) {
		capability.Reasons = append(capability.Reasons, fmt.Sprintf(format, args...))
		return found{capability: capability}, context.Cause(ctx)
	}
	name := d.options.Binary
	if name == "" {
		name = binaryName
	}
	path, err := exec.LookPath(name)
	if err != nil {
		if d.options.Binary != "" {
			return unusable("the configured QEMU %q cannot be run: %v", name, errors.Unwrap(err))
		}
		return unusable("QEMU is not installed: there is no %s in PATH; it is in the package %s", binaryName, packageName)
	}
	capability.Binary = path
	version, err := readVersion(ctx, path)
	if err != nil {
		return unusable("%v", err)
	}
	capability.Version = version.text
	if !version.atLeast(minMajor, minMinor) {
		return unusable("QEMU %s is too old: %d.%d or newer is needed", version.text, minMajor, minMinor)
	}
	capability.Usable = true
	capability.Networks = []vmm.NetworkMode{vmm.NetworkUser, vmm.NetworkStream, vmm.NetworkTAP}
	verdict := d.options.KVM(ctx)
	capability.Accelerated = verdict.Working
	if !verdict.Working {
		reason := "no KVM, so guests are emulated, which is slower: " + verdict.Reason
		if verdict.Hint != "" {
			reason += "; " + verdict.Hint
		}
		capability.Reasons = append(capability.Reasons, reason)
	}
	khz, err := measureTSC(ctx)
	if err != nil {
		return found{}, err
	}
	return found{
		capability: capability,
		host:       host{kvm: verdict.Working, tscKHz: khz},
	}, context.Cause(ctx)
}

type version struct {
	major, minor int
	text         string
}

func (v version) atLeast(major, minor int) bool {
	return v.major > major || v.major == major && v.minor >= minor
}

func readVersion(ctx context.Context, path string) (version, error) {
	out, err := vmm.AskVersion(ctx, path)
	if err != nil {
		return version{}, err
	}
	v, ok := parseVersion(out)
	if !ok {
		return version{}, fmt.Errorf("%q does not tell its version, but says %.80q", path, out)
	}
	return v, nil
}

var versionPattern = regexp.MustCompile(`^QEMU emulator version ((\d{1,4})\.(\d{1,4})(?:\.\d{1,4})?)`)

// parseVersion reads what --version prints.
func parseVersion(text string) (version, bool) {
	m := versionPattern.FindStringSubmatch(text)
	if m == nil {
		return version{}, false
	}
	major, err1 := strconv.Atoi(m[2])
	minor, err2 := strconv.Atoi(m[3])
	return version{major: major, minor: minor, text: m[1]}, err1 == nil && err2 == nil
}
