package boot

import (
	"fmt"
	"io/fs"
	"slices"

	"golang.org/x/sys/unix"

	"banger/internal/guest/rootfs"
)

// units are those of systemd that are started in every image, and need a program
// that is in another package. Containers lack both programs.
var units = [...]struct {
	name     string
	programs []string // any of them will do
}{
	// Its only condition is modules.devname, which banger's kernels have. What
	// it makes are nodes that have the kernel run modprobe, a link to kmod.
	{"kmod-static-nodes.service", []string{"/bin/kmod", "/usr/bin/kmod", "/sbin/kmod", "/usr/sbin/kmod"}},
	// Without udev no device is ever ready, and the boot would wait for this
	// one for 90 seconds.
	{"serial-getty@ttyS0.service", []string{"/lib/systemd/systemd-udevd", "/usr/lib/systemd/systemd-udevd"}},
}

// maskUnits masks, until the next boot, the units whose program the image lacks.
// What the image has in /etc/systemd/system prevails.
func maskUnits(root *rootfs.FS) error {
	const dir = "/run/systemd/system"
	runtime, err := root.MkdirAll(dir, 0o755)
	if err != nil {
		return fmt.Errorf("cannot make %s: %w", dir, err)
	}
	defer runtime.Close()
	for _, u := range units {
		has := func(program string) bool {
			_, err := root.Stat(program)
			return err == nil
		}
		if slices.ContainsFunc(u.programs, has) {
			continue
		}
		if err := unix.Symlinkat("/dev/null", int(runtime.Fd()), u.name); err != nil {
			return fmt.Errorf("cannot mask the unit %s: %w", u.name, &fs.PathError{Op: "symlink", Path: dir, Err: err})
		}
	}
	return nil
}
