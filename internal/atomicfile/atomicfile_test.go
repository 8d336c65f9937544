package atomicfile_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"banger/internal/atomicfile"
)

func check(t *testing.T, path, content string, mode fs.FileMode) {
	t.Helper()
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil || string(data) != content || info.Mode() != mode {
		t.Errorf("got %q, %v, %v, want %q, %v", data, info.Mode(), err, content, mode)
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(entries) != 1 {
		t.Errorf("the directory holds %v, %v, want the file alone", entries, err)
	}
}

func TestWrite(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "file")
	for _, step := range []struct {
		content string
		mode    fs.FileMode
	}{{"one", 0o600}, {"two", 0o644}, {"", 0o666}} {
		if err := atomicfile.Write(path, []byte(step.content), step.mode); err != nil {
			t.Fatal(err)
		}
		check(t, path, step.content, step.mode)
	}
}

func TestWriteIfChanged(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "file")
	past := time.Unix(1e9, 0)
	write := func(content string, mode fs.FileMode) time.Time {
		t.Helper()
		if err := atomicfile.WriteIfChanged(path, []byte(content), mode); err != nil {
			t.Fatal(err)
		}
		check(t, path, content, mode)
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, past, past); err != nil {
			t.Fatal(err)
		}
		return info.ModTime()
	}
	write("one", 0o600)
	if got := write("one", 0o600); !got.Equal(past) {
		t.Error("the same content was written again")
	}
	if got := write("two", 0o600); got.Equal(past) {
		t.Error("content of the same length was not written")
	}
	if got := write("two", 0o644); got.Equal(past) {
		t.Error("another mode was not written")
	}
}

func TestWriteFails(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "directory")
	if err := os.MkdirAll(filepath.Join(path, "full"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := atomicfile.Write(path, []byte("x"), 0o600); err == nil {
		t.Error("a directory was replaced")
	}
	if err := atomicfile.Write(filepath.Join(dir, "missing", "file"), nil, 0o600); err == nil {
		t.Error("written into a directory that does not exist")
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}
