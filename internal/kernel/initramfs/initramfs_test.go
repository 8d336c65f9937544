package initramfs_test

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cavaliergopher/cpio"
	"github.com/google/go-cmp/cmp"

	"banger/internal/kernel/initramfs"
)

func write(t *testing.T, path, content string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

type entry struct {
	Mode    cpio.FileMode
	Content string
}

func TestBuild(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	agent := write(t, filepath.Join(dir, "banger-vsock-agent"), "agent")
	var modules []string
	want := map[string]entry{
		"init": {cpio.TypeReg | 0o755, "agent"},
		"dev":  {cpio.TypeDir | 0o755, ""}, "proc": {cpio.TypeDir | 0o755, ""}, "sys": {cpio.TypeDir | 0o755, ""},
		"run": {cpio.TypeDir | 0o755, ""}, "tmp": {cpio.TypeDir | 0o755, ""}, "newroot": {cpio.TypeDir | 0o755, ""},
		"modules":     {cpio.TypeDir | 0o755, ""},
		"dev/console": {cpio.TypeChar | 0o600, ""},
	}
	// Lengths of every remainder by 4, and names with two digits.
	var list strings.Builder
	for i, name := range []string{"virtio_mmio", "virtio_blk", "virtio-rng", "a", "bb", "ccc", "dddd", "e", "f", "g", "h"} {
		content := strings.Repeat("x", i)
		modules = append(modules, write(t, filepath.Join(dir, "m", name+".ko"), content))
		file := []string{"00", "01", "02", "03", "04", "05", "06", "07", "08", "09", "10"}[i] + "-" + name + ".ko"
		want["modules/"+file] = entry{cpio.TypeReg | 0o644, content}
		list.WriteString(file + "\n")
	}
	want["modules/list"] = entry{cpio.TypeReg | 0o644, list.String()}

	var archive bytes.Buffer
	if err := initramfs.Build(&archive, agent, modules); err != nil {
		t.Fatal(err)
	}
	got := make(map[string]entry)
	reader := cpio.NewReader(bytes.NewReader(archive.Bytes()))
	inodes := make(map[int64]string)
	for {
		header, err := reader.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(reader)
		if err != nil {
			t.Fatal(err)
		}
		if other, ok := inodes[header.Inode]; ok {
			t.Errorf("%q and %q have one inode: the kernel would link them", other, header.Name)
		}
		inodes[header.Inode] = header.Name
		parent := filepath.Dir(header.Name)
		if _, ok := got[parent]; parent != "." && !ok {
			t.Errorf("%q comes before its directory", header.Name)
		}
		got[header.Name] = entry{header.Mode, string(content)}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("contents (-want +got):\n%s", diff)
	}
	// The reader above does not tell a device's numbers.
	at := bytes.Index(archive.Bytes(), []byte("dev/console\x00"))
	if at < 110 {
		t.Fatal("no entry dev/console")
	}
	if rdev := string(archive.Bytes()[at-110+78 : at-110+94]); rdev != "0000000500000001" {
		t.Errorf("dev/console is the device %s, want 5, 1", rdev)
	}

	var again bytes.Buffer
	if err := initramfs.Build(&again, agent, modules); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(archive.Bytes(), again.Bytes()) {
		t.Error("the same files make another archive")
	}
}

type full struct{ room int }

func (w *full) Write(p []byte) (int, error) {
	if w.room -= len(p); w.room < 0 {
		return 0, errors.ErrUnsupported
	}
	return len(p), nil
}

func TestBuildFails(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	agent := write(t, filepath.Join(dir, "agent"), "agent")
	module := write(t, filepath.Join(dir, "a.ko"), "module")
	if err := initramfs.Build(io.Discard, filepath.Join(dir, "none"), nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without an agent: %v", err)
	}
	if err := initramfs.Build(io.Discard, agent, []string{filepath.Join(dir, "none.ko")}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without a module: %v", err)
	}
	if err := initramfs.Build(io.Discard, dir, nil); err == nil || !strings.Contains(err.Error(), "not a regular file") {
		t.Errorf("with a directory as agent: %v", err)
	}
	var whole bytes.Buffer
	if err := initramfs.Build(&whole, agent, []string{module}); err != nil {
		t.Fatal(err)
	}
	for room := range whole.Len() {
		if err := initramfs.Build(&full{room}, agent, []string{module}); !errors.Is(err, errors.ErrUnsupported) {
			t.Fatalf("with room for %d of %d bytes: %v", room, whole.Len(), err)
		}
	}
}
