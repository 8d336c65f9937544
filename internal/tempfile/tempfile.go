// Package tempfile opens files that have no name: they go with the process that
// has them, however it ends.
package tempfile

import (
	"errors"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Open opens a new file without a name, to read and write, on the file system of
// the directory dir.
func Open(dir string) (*os.File, error) {
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	switch {
	case err == nil:
		return os.NewFile(uintptr(fd), filepath.Join(dir, "(unnamed)")), nil
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EISDIR):
		// Not every file system has that: NFS, and overlays of older kernels.
		return nameless(dir)
	}
	return nil, &os.PathError{Op: "create a file in", Path: dir, Err: err}
}

// nameless takes the name of a new file away at once.
func nameless(dir string) (*os.File, error) {
	file, err := os.CreateTemp(dir, "unnamed-")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(file.Name()); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}
