// Package ext4 makes ext4 file systems of tar streams without root, mounts or
// an intermediate tree: the file systems that are shared, read-only, by guests.
package ext4

import (
	"archive/tar"
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
)

// MaxSize is the most that a file system made here may have, in bytes. What is
// reserved for this size is a few blocks.
const MaxSize = 64 << 30

// Write makes a new file at path that is an ext4 file system with what the tar
// stream has: owners, modes, times, extended attributes, hard links and device
// nodes as they are there; directories that it does not have but that are needed
// are root's. No name but a directory's may come twice. The stream is read to
// its end. What is in memory meanwhile are the names, not the files. The file
// has no journal and no room for more: it is for mounting read-only. It has at
// most limit bytes, is not synced, and not removed after an error.
func Write(path string, stream io.Reader, limit int64) (err error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return fmt.Errorf("cannot create a file system: %w", err)
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	w, err := newWriter(file, min(limit, MaxSize))
	if err != nil {
		return fmt.Errorf("cannot create a file system: %w", err)
	}
	defer func() { err = errors.Join(err, w.inodes.file.Close()) }()
	in := bufio.NewReaderSize(stream, 1<<20)
	archive := tar.NewReader(in)
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("cannot read the tar stream: %w", err)
		}
		if err := w.add(header, archive); err != nil {
			return fmt.Errorf("cannot write %q to the file system: %w", header.Name, err)
		}
	}
	// The archive ends before the stream does: tar pads it.
	if _, err := io.Copy(io.Discard, in); err != nil {
		return fmt.Errorf("cannot read the tar stream to its end: %w", err)
	}
	if err := w.finish(); err != nil {
		return fmt.Errorf("cannot write the file system: %w", err)
	}
	return nil
}
