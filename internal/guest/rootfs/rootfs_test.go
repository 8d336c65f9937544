package rootfs

import (
	"os"
	"path/filepath"
	"testing"
)

func newFS(t *testing.T) (fs *FS, dir, outside string) {
	t.Helper()
	top := t.TempDir()
	dir, outside = filepath.Join(top, "root"), filepath.Join(top, "outside")
	for _, d := range []string{dir, outside, filepath.Join(dir, "etc")} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(outside, "secret"), []byte("secret"), 0o644); err != nil {
		t.Fatal(err)
	}
	fs, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { fs.Close() })
	return fs, dir, outside
}

func TestLinksStayInside(t *testing.T) {
	t.Parallel()
	fs, dir, outside := newFS(t)
	links := map[string]string{
		"absolute": outside,
		"relative": "../outside",
		"dots":     "../../../../../../../.." + outside,
		"proc":     "/proc/self/root" + outside,
	}
	for name, target := range links {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
		if b, err := fs.ReadFile(name+"/secret", 100); err == nil {
			t.Errorf("%s: read %q from outside", name, b)
		}
		_ = fs.WriteFile(name+"/planted", []byte("x"), 0o644)
		if _, err := os.Lstat(filepath.Join(outside, "planted")); err == nil {
			t.Fatalf("%s: wrote outside", name)
		}
	}
}

func TestAbsoluteLinkIsInsideTheRoot(t *testing.T) {
	t.Parallel()
	fs, dir, _ := newFS(t)
	if err := os.Symlink("/etc", filepath.Join(dir, "conf")); err != nil {
		t.Fatal(err)
	}
	if err := fs.WriteFile("/conf/sub/name", []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(filepath.Join(dir, "etc/sub/name"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("got %v, %v", info, err)
	}
}

func TestWriteFileReplacesLinks(t *testing.T) {
	t.Parallel()
	fs, dir, outside := newFS(t)
	name := filepath.Join(dir, "etc/resolv.conf")
	if err := os.Symlink(filepath.Join(outside, "secret"), name); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := fs.WriteFile("/etc/resolv.conf", []byte("new"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if b, err := os.ReadFile(name); err != nil || string(b) != "new" {
		t.Errorf("got %q, %v", b, err)
	}
	if b, _ := os.ReadFile(filepath.Join(outside, "secret")); string(b) != "secret" {
		t.Errorf("the link's target is now %q", b)
	}
	entries, err := os.ReadDir(filepath.Join(dir, "etc"))
	if err != nil || len(entries) != 1 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

func TestReadFileLimits(t *testing.T) {
	t.Parallel()
	fs, dir, _ := newFS(t)
	if err := os.WriteFile(filepath.Join(dir, "big"), make([]byte, 11), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := fs.ReadFile("big", 10); err == nil {
		t.Error("a file over the limit was read")
	}
	if _, err := fs.ReadFile("etc", 10); err == nil {
		t.Error("a directory was read")
	}
}
