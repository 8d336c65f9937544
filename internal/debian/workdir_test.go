package debian

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func remover() []string { return []string{"rm", "-rf", "--one-file-system", "--"} }

func exists(t *testing.T, path string) bool {
	t.Helper()
	_, err := os.Lstat(path)
	return err == nil
}

func fill(t *testing.T, dir string) {
	t.Helper()
	locked := filepath.Join(dir, "tree", "mmdebstrap.x", "locked")
	if err := os.MkdirAll(locked, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(locked, "file"), nil, 0o400); err != nil {
		t.Fatal(err)
	}
}

func TestSweep(t *testing.T) {
	t.Parallel()
	base := t.TempDir()
	used, err := newWorkDir(base)
	if err != nil {
		t.Fatal(err)
	}
	left, err := newWorkDir(base)
	if err != nil {
		t.Fatal(err)
	}
	fill(t, used.path)
	fill(t, left.path)
	// As by the end of its process. Not by Close alone: a process that another
	// test is starting has a copy until its exec.
	if err := unix.Flock(int(left.lock.Fd()), unix.LOCK_UN); err != nil {
		t.Fatal(err)
	}
	left.lock.Close()

	fresh := filepath.Join(base, workDirPrefix()+"fresh") // its lock comes in a moment
	old := filepath.Join(base, workDirPrefix()+"old")     // its lock never came
	for _, dir := range []string{fresh, old} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	past := time.Now().Add(-24 * time.Hour)
	if err := os.Chtimes(old, past, past); err != nil {
		t.Fatal(err)
	}
	// What only looks like one: nothing behind a link may be removed.
	precious := t.TempDir()
	fill(t, precious)
	link := filepath.Join(base, workDirPrefix()+"link")
	if err := os.Symlink(precious, link); err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(base, "banger-build-999999999-x")
	fill(t, other)

	if err := sweep(base, remover()); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]bool{
		used.path: true, left.path: false, fresh: true, old: false, link: true, other: true,
		filepath.Join(precious, "tree", "mmdebstrap.x", "locked", "file"): true,
	} {
		if got := exists(t, path); got != want {
			t.Errorf("after the sweep %s exists: %v, want %v", path, got, want)
		}
	}

	if err := used.Remove(remover()); err != nil || exists(t, used.path) {
		t.Errorf("removed: %v; still there: %v", err, exists(t, used.path))
	}
}

func TestRemoveSaysWhatIsLeft(t *testing.T) {
	t.Parallel()
	if os.Getuid() == 0 {
		t.Skip("root can remove anything")
	}
	d, err := newWorkDir(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	fill(t, d.path)
	locked := filepath.Join(d.Tree(), "mmdebstrap.x", "locked")
	if err := os.Chmod(locked, 0); err != nil {
		t.Fatal(err)
	}
	defer os.Chmod(locked, 0o700)
	if err := d.Remove([]string{"false"}); err == nil || !strings.Contains(err.Error(), d.path) {
		t.Errorf("got error %v, want one that names %s", err, d.path)
	}
}

func TestDefaultTempDir(t *testing.T) {
	top := t.TempDir()
	open, closed := filepath.Join(top, "open"), filepath.Join(top, "closed", "below")
	for _, dir := range []string{open, closed} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for dir, mode := range map[string]os.FileMode{filepath.Dir(top): 0o755, top: 0o755, open: 0o755, filepath.Dir(closed): 0o700} {
		if err := os.Chmod(dir, mode); err != nil {
			t.Fatal(err)
		}
	}
	if !enterable(filepath.Dir(filepath.Dir(top))) {
		t.Skipf("SKIPPED: not every user may enter the directory of the tests' files, %s", top)
	}
	for dir, want := range map[string]bool{open: true, filepath.Join(open, "none"): true, closed: false} {
		if got := enterable(dir); got != want {
			t.Errorf("enterable(%q) = %v, want %v", dir, got, want)
		}
	}
	t.Setenv("TMPDIR", closed)
	want := "/var/tmp"
	if os.Getuid() == 0 {
		want = closed
	}
	if got := DefaultTempDir(); got != want {
		t.Errorf("with TMPDIR=%s: %s, want %s", closed, got, want)
	}
}
