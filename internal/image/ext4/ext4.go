// Package ext4 makes ext4 file systems of tar streams without root, mounts or
// an intermediate tree: the file systems that are shared, read-only, by guests.
package ext4

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/Microsoft/hcsshim/ext4/tar2ext4"
)

// Most that a file system made here may hold, in bytes. What is reserved for
// this size is a few hundred bytes.
const maxSize = 64 << 30

// Write makes a new file at path that is an ext4 file system with what the tar
// stream has: owners, modes, times, extended attributes, hard links and device
// nodes as they are there. The stream is read to its end. The file has no
// journal and no room for more: it is for mounting read-only. It is not
// synced, and not removed after an error.
func Write(path string, stream io.Reader) (err error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return fmt.Errorf("cannot create a file system: %w", err)
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	in := bufio.NewReaderSize(stream, 1<<20)
	if err := tar2ext4.ConvertTarToExt4(in, file, tar2ext4.MaximumDiskSize(maxSize)); err != nil {
		return fmt.Errorf("cannot write the file system: %w", err)
	}
	// The archive ends before the stream does: tar pads it.
	if _, err := io.Copy(io.Discard, in); err != nil {
		return fmt.Errorf("cannot read the tar stream to its end: %w", err)
	}
	if err := repairTimes(file); err != nil {
		return fmt.Errorf("cannot read the file system that was written: %w", err)
	}
	return nil
}
