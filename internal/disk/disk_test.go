package disk

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"banger/internal/api"
)

func needTools(t *testing.T) {
	t.Helper()
	for _, name := range Tools() {
		if _, err := findTool(name); err != nil {
			t.Skipf("needs e2fsprogs: %v", err)
		}
	}
}

func check(t *testing.T, path string) {
	t.Helper()
	tool, err := findTool("e2fsck")
	if err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), tool, "-f", "-n", path).CombinedOutput(); err != nil {
		t.Errorf("e2fsck: %v\n%s", err, out)
	}
}

func TestCreateIsSparseAndClean(t *testing.T) {
	t.Parallel()
	needTools(t)
	path := filepath.Join(t.TempDir(), "a disk.ext4")
	const size = 8 << 30
	if err := Create(t.Context(), path, size); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Size() != size || info.Mode().Perm() != 0o600 {
		t.Errorf("size %d, mode %v; want %d, 0600", info.Size(), info.Mode(), int64(size))
	}
	used, err := Usage(path, path+".missing")
	if err != nil {
		t.Fatal(err)
	}
	if used == 0 || used > 4<<20 {
		t.Errorf("a fresh disk takes %d bytes, want at most 4 MiB", used)
	}
	check(t, path)
	if entries, err := os.ReadDir(filepath.Dir(path)); err != nil || len(entries) != 1 {
		t.Errorf("the directory holds %v (%v), want the disk only", entries, err)
	}
}

func TestGrow(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, size := range []int64{4 << 30, 1 << 30} { // it never shrinks
		if err := Grow(path, size); err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(path); err != nil || info.Size() != 4<<30 {
			t.Errorf("after Grow(%d): %v, %v, want 4 GiB", size, info, err)
		}
	}
	head := make([]byte, 7)
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := file.ReadAt(head, 0); err != nil || string(head) != "content" {
		t.Errorf("the content became %q, %v", head, err)
	}
}

func TestErrors(t *testing.T) {
	t.Parallel()
	needTools(t)
	dir := t.TempDir()
	if err := Create(t.Context(), filepath.Join(dir, "small"), MinSize-1); err == nil {
		t.Error("a disk below the minimum was made")
	}
	if err := Create(t.Context(), filepath.Join(dir, "missing", "disk"), MinSize); err == nil {
		t.Error("a disk was made in a missing directory")
	}
	if err := Grow(filepath.Join(dir, "missing"), MinSize); err == nil {
		t.Error("a missing disk was grown")
	}
}

func TestNoSpace(t *testing.T) {
	t.Parallel()
	err := wrap("create the disk", "/x", &toolError{name: "mke2fs", said: "mke2fs: No space left on device while writing"})
	known, ok := errors.AsType[*api.Error](err)
	if !ok || known.Kind != api.KindNoSpace || known.Hint == "" {
		t.Errorf("got %#v, want an api.Error of KindNoSpace with a hint", err)
	}
	if !IsNoSpace(err) || IsNoSpace(os.ErrNotExist) {
		t.Error("IsNoSpace does not tell them apart")
	}
}

func TestCreateHasAJournal(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "disk")
	if err := Create(t.Context(), path, MinSize); err != nil {
		t.Fatal(err)
	}
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var super [1024]byte
	if _, err := file.ReadAt(super[:], 1024); err != nil {
		t.Fatal(err)
	}
	const (
		compat, incompat   = 0x5c, 0x60
		hasJournal, extent = 0x4, 0x40
	)
	if super[compat]&hasJournal == 0 || super[incompat]&extent == 0 {
		t.Errorf("features %#x %#x: a journal or extents are missing", super[compat], super[incompat])
	}
}

func TestOutputIsBounded(t *testing.T) {
	t.Parallel()
	const much = "echo the beginning; head -c 4000000 /dev/zero; echo; echo the end; "
	said, err := output(t.Context(), "sh", "-c", much)
	if err != nil || !strings.HasPrefix(said, "the beginning\n") || !strings.HasSuffix(said, "\nthe end\n") || len(said) > 1<<16 {
		t.Errorf("kept %d bytes from %.20q on, %v", len(said), said, err)
	}
	_, err = output(t.Context(), "sh", "-c", much+"exit 3")
	if want := "sh: exit status 3: the end"; err == nil || err.Error() != want {
		t.Errorf("error %v, want %q", err, want)
	}
}
