package boot

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"banger/internal/guest/rootfs"
)

func TestParseModules(t *testing.T) {
	t.Parallel()
	got := parseModules([]byte("00-a.ko\n\n# comment\n ../01-b.ko \n02-c.ko"))
	if diff := cmp.Diff([]string{"00-a.ko", "01-b.ko", "02-c.ko"}, got); diff != "" {
		t.Error(diff)
	}
}

func TestSuperblock(t *testing.T) {
	t.Parallel()
	var b [1024]byte
	binary.LittleEndian.PutUint32(b[0x4:], 7)
	binary.LittleEndian.PutUint32(b[0x18:], 2)
	binary.LittleEndian.PutUint32(b[0x150:], 1)
	if blocks, size := superblock(&b); blocks != 7 || size != 4096 {
		t.Errorf("32 bits: got %d blocks of %d", blocks, size)
	}
	binary.LittleEndian.PutUint32(b[0x60:], 0x80)
	if blocks, _ := superblock(&b); blocks != 1<<32+7 {
		t.Errorf("64 bits: got %d blocks", blocks)
	}
}

func TestFindInit(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	root, err := rootfs.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	if got := findInit(root); got != "" {
		t.Errorf("nothing there: %q", got)
	}
	write := func(name string, mode os.FileMode) {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, nil, mode); err != nil {
			t.Fatal(err)
		}
	}
	write("bin/init", 0o644)
	if got := findInit(root); got != "" {
		t.Errorf("not executable: %q", got)
	}
	write("lib/systemd/systemd", 0o755)
	if got := findInit(root); got != "/lib/systemd/systemd" {
		t.Errorf("systemd alone: %q", got)
	}
	if err := os.MkdirAll(filepath.Join(dir, "sbin"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/lib/systemd/systemd", filepath.Join(dir, "sbin/init")); err != nil {
		t.Fatal(err)
	}
	if got := findInit(root); got != "/sbin/init" {
		t.Errorf("with the link: %q", got)
	}
	if !IsSystemd(root, "/sbin/init") || IsSystemd(root, "/bin/init") || IsSystemd(root, "") {
		t.Error("the link, and nothing else, leads to systemd")
	}
}

// systemd-shutdown finds all that it needs: it can make nothing by then.
func TestPrepareFinal(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := prepareFinal(dir); err != nil {
		t.Fatal(err)
	}
	if to, err := os.Readlink(filepath.Join(dir, "shutdown")); err != nil || to != "init" {
		t.Errorf("shutdown leads to %q, %v", to, err)
	}
	if info, err := os.Stat(filepath.Join(dir, "oldroot")); err != nil || !info.IsDir() {
		t.Errorf("there is no directory oldroot: %v", err)
	}
}

func TestMaskUnits(t *testing.T) {
	t.Parallel()
	const kmod, udev = "kmod-static-nodes.service", "serial-getty@ttyS0.service"
	for name, c := range map[string]struct{ has, masked []string }{
		"neither":        {nil, []string{kmod, udev}},
		"kmod":           {[]string{"usr/bin/kmod"}, []string{udev}},
		"udev":           {[]string{"usr/lib/systemd/systemd-udevd"}, []string{kmod}},
		"both, unmerged": {[]string{"bin/kmod", "lib/systemd/systemd-udevd"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			for _, program := range c.has {
				path := filepath.Join(dir, program)
				if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, nil, 0o755); err != nil {
					t.Fatal(err)
				}
			}
			root, err := rootfs.Open(dir)
			if err != nil {
				t.Fatal(err)
			}
			defer root.Close()
			if err := maskUnits(root); err != nil {
				t.Fatal(err)
			}
			entries, err := os.ReadDir(filepath.Join(dir, "run/systemd/system"))
			if err != nil {
				t.Fatal(err)
			}
			var masked []string
			for _, e := range entries {
				masked = append(masked, e.Name())
				if to, err := os.Readlink(filepath.Join(dir, "run/systemd/system", e.Name())); err != nil || to != "/dev/null" {
					t.Errorf("%s leads to %q, %v", e.Name(), to, err)
				}
			}
			if diff := cmp.Diff(c.masked, masked); diff != "" {
				t.Error(diff)
			}
		})
	}
}
