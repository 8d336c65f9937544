package boot

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"banger/internal/guest/rootfs"
	"banger/internal/leftout"
)

// mountKernel mounts the kernel's own file systems for this program.
func mountKernel(root string) error {
	for _, m := range [...]struct{ kind, dir string }{{"devtmpfs", "dev"}, {"proc", "proc"}, {"sysfs", "sys"}} {
		dir := filepath.Join(root, m.dir)
		if err := mount(m.kind, dir, m.kind, 0, ""); err != nil && !errors.Is(err, unix.EBUSY) {
			return err
		}
	}
	return nil
}

// mount makes the directory and mounts on it.
func mount(source, dir, kind string, flags uintptr, data string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("cannot mount %s: %w", source, err)
	}
	if err := unix.Mount(source, dir, kind, flags, data); err != nil {
		return fmt.Errorf("cannot mount %s on %s: %w", source, dir, err)
	}
	return nil
}

// Order of the disks.
const (
	imageDevice = iota
	overlayDevice
	workDevice
	modulesDevice
	neededDevices = workDevice
)

func device(n int) string { return "/dev/vd" + string(rune('a'+n)) }

// mountRoot mounts the disks, and the overlay on NewRoot.
func mountRoot() error {
	disks := 0
	if err := poll("the disks", func() bool {
		disks = countDisks()
		return disks >= neededDevices
	}); err != nil {
		return err
	}
	if err := mount(device(imageDevice), ImageDisk, "ext4", unix.MS_RDONLY, ""); err != nil {
		return err
	}
	if err := mount(device(overlayDevice), OverlayDisk, "ext4", unix.MS_NOATIME, ""); err != nil {
		return err
	}
	if disks > workDevice {
		if err := mount(device(workDevice), WorkDisk, "ext4", unix.MS_NOATIME, ""); err != nil {
			return err
		}
		if err := grow(device(workDevice), WorkDisk); err != nil {
			return fmt.Errorf("cannot grow the work disk: %w", err)
		}
	}
	if disks > modulesDevice {
		if err := mount(device(modulesDevice), ModulesDisk, "ext4", unix.MS_RDONLY, ""); err != nil {
			return err
		}
	}
	upper, work := filepath.Join(OverlayDisk, "upper"), filepath.Join(OverlayDisk, "work")
	for _, dir := range []string{upper, work} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("cannot prepare the overlay: %w", err)
		}
	}
	return mount("overlay", NewRoot, "overlay", unix.MS_NOATIME,
		"lowerdir="+ImageDisk+",upperdir="+upper+",workdir="+work)
}

// countDisks returns how many disks are there, zero as long as the kernel
// knows of some that have no driver yet.
func countDisks() int {
	const block = "0x0002" // virtio's device id
	known := 0
	ids, err := filepath.Glob("/sys/bus/virtio/devices/*/device")
	if err != nil {
		return 0
	}
	for _, id := range ids {
		if b, err := os.ReadFile(id); err == nil && strings.TrimSpace(string(b)) == block {
			known++
		}
	}
	for n := range known {
		if _, err := os.Stat(device(n)); err != nil {
			return 0
		}
	}
	return known
}

// furnish mounts everything else below the new root.
func furnish(root *rootfs.FS, initPath string) error {
	type entry struct {
		source, dir, kind string
		flags             uintptr
		data              string
	}
	const safe = unix.MS_NOSUID | unix.MS_NODEV
	entries := []entry{
		{"proc", "/proc", "proc", safe | unix.MS_NOEXEC, ""},
		{"sysfs", "/sys", "sysfs", safe | unix.MS_NOEXEC, ""},
		{"devtmpfs", "/dev", "devtmpfs", unix.MS_NOSUID, "mode=755"},
		{"devpts", "/dev/pts", "devpts", unix.MS_NOSUID | unix.MS_NOEXEC, "gid=5,mode=620,ptmxmode=666"},
		// Inits mount it unless it is there; busybox's alone does not.
		{"tmpfs", "/dev/shm", "tmpfs", safe, "mode=1777"},
		{"tmpfs", "/run", "tmpfs", safe, "mode=755"},
		// systemd-shutdown runs /run/initramfs/shutdown as its last act.
		{"/", "/run/initramfs", "", unix.MS_BIND, ""},
	}
	if initPath == "" {
		entries = append(entries, entry{"cgroup2", "/sys/fs/cgroup", "cgroup2", safe | unix.MS_NOEXEC, ""})
	}
	for _, e := range entries {
		err := root.Mountpoint(e.dir, func(path string) error {
			return unix.Mount(e.source, path, e.kind, e.flags, e.data)
		})
		if err != nil {
			return fmt.Errorf("cannot mount %s: %w", e.dir, err)
		}
	}
	if err := makeTemp(root); err != nil {
		return err
	}
	if _, err := os.Stat(ModulesDisk); err == nil {
		if err := bind(root, ModulesDisk, "/lib/modules"); err != nil {
			return err
		}
	}
	if _, err := os.Stat(WorkDisk); err == nil {
		if err := bindFilled(root, WorkDisk, "/root"); err != nil {
			return err
		}
	}
	// What stores layers of its own as overlays cannot do so on ours.
	for _, store := range leftout.Stores() {
		dir := filepath.Join(OverlayDisk, filepath.Base(store))
		if err := os.Mkdir(dir, 0o711); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("cannot prepare the overlay disk: %w", err)
		}
		if err := bindFilled(root, dir, "/"+store); err != nil {
			return err
		}
	}
	return nil
}

// makeTemp makes the directory that every program expects, where a bare image
// lacks it.
func makeTemp(root *rootfs.FS) error {
	if _, err := root.Stat("/tmp"); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return root.Mountpoint("/tmp", func(path string) error {
		return os.Chmod(path, os.ModeSticky|0o777)
	})
}

// bind shows source at dir of the root.
func bind(root *rootfs.FS, source, dir string) error {
	err := root.Mountpoint(dir, func(path string) error {
		return unix.Mount(source, path, "", unix.MS_BIND, "")
	})
	if err != nil {
		return fmt.Errorf("cannot mount %s: %w", dir, err)
	}
	return nil
}
