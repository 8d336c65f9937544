package firecracker

import (
	"context"
	"fmt"
	"os/exec"
	"regexp"
	"strconv"

	"banger/internal/vmm"
	"banger/internal/vmm/launch"
)

// Versions: the oldest that is supported, the newest that banger was tested
// with, and the first without the flaws that [Advice] names.
const (
	Oldest = "1.12"
	Tested = "1.12.1"
	Sound  = "1.16.1"
)

// Advice says why a version older than [Sound] should be replaced.
const Advice = "versions before 1.16.1 have known security flaws (CVE-2026-5747 in virtio-PCI of 1.13 to 1.15.0, CVE-2026-1386 in the jailer)"

// probe looks at the host. It does not cache.
func (d *Driver) probe(ctx context.Context) vmm.Capability {
	var c vmm.Capability
	unusable := func(format string, args ...any) vmm.Capability {
		c.Reasons = append(c.Reasons, fmt.Sprintf(format, args...))
		return c
	}
	path := d.options.Binary
	if path == "" {
		found, err := exec.LookPath("firecracker")
		if err != nil {
			return unusable("firecracker is not installed: it is not in PATH, and firecracker_bin is not set")
		}
		path = found
	} else if err := isExecutable(path); err != nil {
		return unusable("the configured firecracker %q cannot be run: %v", path, err)
	}
	c.Binary = path
	out, err := vmm.AskVersion(ctx, path)
	if err != nil {
		return unusable("%v", err)
	}
	version, ok := ParseVersion(out)
	if !ok {
		return unusable("%q does not tell its version, but says %.80q", path, out)
	}
	c.Version = version
	if Before(version, Oldest) {
		return unusable("firecracker %s is too old: %s or newer is needed", version, Oldest)
	}
	verdict := d.options.KVM(ctx)
	if !verdict.Working {
		reason := "firecracker needs KVM: " + verdict.Reason
		if verdict.Hint != "" {
			reason += "; " + verdict.Hint
		}
		return unusable("%s", reason)
	}
	c.Usable, c.Accelerated = true, true
	c.Networks = []vmm.NetworkMode{vmm.NetworkTAP}
	if err := launch.CheckNetwork(ctx, d.options.Launcher); err != nil {
		c.Reasons = append(c.Reasons, fmt.Sprintf("firecracker has no network without root here, which takes a user namespace with a TAP device: %v", err))
		return c
	}
	c.Networks = append(c.Networks, vmm.NetworkStream)
	return c
}

var versionPattern = regexp.MustCompile(`^Firecracker v((\d{1,4})\.(\d{1,4})\.(\d{1,4}))`)

// ParseVersion reads the first line of what "firecracker --version" prints;
// lines of the log follow.
func ParseVersion(text string) (string, bool) {
	m := versionPattern.FindStringSubmatch(text)
	if m == nil {
		return "", false
	}
	return m[1], true
}

// Before says whether version a is older than b; parts that are missing are 0.
func Before(a, b string) bool {
	x, y := parts(a), parts(b)
	for i := range x {
		if x[i] != y[i] {
			return x[i] < y[i]
		}
	}
	return false
}

var number = regexp.MustCompile(`\d+`)

func parts(version string) [3]int {
	var p [3]int
	for i, digits := range number.FindAllString(version, 3) {
		// At most the length that versionPattern takes.
		p[i], _ = strconv.Atoi(digits)
	}
	return p
}
