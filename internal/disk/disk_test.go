package disk

import (
	"context"
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"banger/internal/api"
)

func needTools(t *testing.T) {
	t.Helper()
	for _, name := range Tools() {
		if _, err := FindTool(name); err != nil {
			t.Skipf("needs e2fsprogs: %v", err)
		}
	}
}

func check(t *testing.T, path string) {
	t.Helper()
	tool, err := FindTool("e2fsck")
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
	needTools(t)
	path := filepath.Join(t.TempDir(), "disk")
	if err := Create(t.Context(), path, 1<<30); err != nil {
		t.Fatal(err)
	}
	want := func(size int64) {
		t.Helper()
		got, err := fileSystemSize(path)
		if err != nil {
			t.Fatal(err)
		}
		if got != size {
			t.Errorf("the file system has %d bytes, want %d", got, size)
		}
		check(t, path)
	}
	if err := Grow(t.Context(), path, 4<<30); err != nil {
		t.Fatal(err)
	}
	want(4 << 30)
	// A disk never shrinks.
	if err := Grow(t.Context(), path, 1<<30); err != nil {
		t.Fatal(err)
	}
	want(4 << 30)
	// An earlier attempt ended after making the file longer.
	if err := os.Truncate(path, 5<<30); err != nil {
		t.Fatal(err)
	}
	if err := Grow(t.Context(), path, 5<<30); err != nil {
		t.Fatal(err)
	}
	want(5 << 30)
}

// A resize2fs that a killed bangerd has left must end before the next one.
func TestGrowWaits(t *testing.T) {
	t.Parallel()
	needTools(t)
	path := filepath.Join(t.TempDir(), "disk")
	if err := Create(t.Context(), path, MinSize); err != nil {
		t.Fatal(err)
	}
	held, err := lockDisk(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	// The program has inherited the lock; its starter is gone.
	cmd := exec.CommandContext(t.Context(), "cat")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.ExtraFiles = []*os.File{held}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if err := held.Close(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := Grow(ctx, path, 2*MinSize); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error %v, want that it waited", err)
	}
	if info, err := os.Stat(path); err != nil || info.Size() != MinSize {
		t.Errorf("the disk was touched: %v, %v", info, err)
	}
	if err := stdin.Close(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	if err := Grow(t.Context(), path, 2*MinSize); err != nil {
		t.Error(err)
	}
	check(t, path)
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
	if err := Grow(t.Context(), filepath.Join(dir, "missing"), MinSize); err == nil {
		t.Error("a missing disk was grown")
	}
	garbage := filepath.Join(dir, "garbage")
	if err := os.WriteFile(garbage, make([]byte, 8192), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Grow(t.Context(), garbage, MinSize); err == nil {
		t.Error("a file without a file system was grown")
	}
}

func TestNoSpace(t *testing.T) {
	t.Parallel()
	err := wrap("create the disk", "/x", &toolError{name: "mke2fs", output: "mke2fs: No space left on device while writing"})
	known, ok := errors.AsType[*api.Error](err)
	if !ok || known.Kind != api.KindNoSpace || known.Hint == "" {
		t.Errorf("got %#v, want an api.Error of KindNoSpace with a hint", err)
	}
	if !IsNoSpace(err) || IsNoSpace(os.ErrNotExist) {
		t.Error("IsNoSpace does not tell them apart")
	}
}

func FuzzParseSize(f *testing.F) {
	super := make([]byte, 1024)
	binary.LittleEndian.PutUint16(super[0x38:], 0xEF53)
	binary.LittleEndian.PutUint32(super[0x18:], 2)
	binary.LittleEndian.PutUint32(super[0x04:], 1000)
	f.Add(super)
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, super []byte) {
		if size, err := parseSize(super); err == nil && size < 0 {
			t.Errorf("parseSize = %d", size)
		}
	})
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
