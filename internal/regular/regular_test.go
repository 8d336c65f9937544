package regular_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"banger/internal/regular"
)

func TestRead(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file, fifo, link := filepath.Join(dir, "file"), filepath.Join(dir, "fifo"), filepath.Join(dir, "link")
	if err := os.WriteFile(file, []byte("four"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(file, link); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{file, link} {
		if data, info, err := regular.Read(path, 4); err != nil || string(data) != "four" || info.Size() != 4 {
			t.Errorf("%q, %v", data, err)
		}
	}
	for _, test := range []struct {
		path string
		want error
	}{{file, regular.ErrSize}, {fifo, regular.ErrKind}, {dir, regular.ErrKind}, {"/dev/zero", regular.ErrKind}, {filepath.Join(dir, "none"), fs.ErrNotExist}} {
		if _, _, err := regular.Read(test.path, 3); !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", test.path, err, test.want)
		}
	}
}
