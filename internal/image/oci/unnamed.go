package oci

import (
	"errors"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Unnamed opens a new file in dir that has no name and goes with this process.
func Unnamed(dir string) (*os.File, error) {
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
	file, err := os.CreateTemp(dir, "unpacked-")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(file.Name()); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}
