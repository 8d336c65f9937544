// Package regular opens files that somebody else may have put there: what is no
// regular file is refused, and never waited for.
package regular

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"
)

var (
	// ErrKind is that of what is no regular file.
	ErrKind = errors.New("it is not a regular file")
	// ErrSize is that of a file with more bytes than were allowed.
	ErrSize = errors.New("it is too long")
)

// Open opens a file to read. The information is of what was opened, whatever
// has come to be at the path.
func Open(path string) (*os.File, fs.FileInfo, error) {
	// O_NONBLOCK: a FIFO must not hang us.
	file, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOCTTY, 0)
	if err != nil {
		return nil, nil, err
	}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("%s: %w", path, ErrKind)
	}
	if err != nil {
		return nil, nil, errors.Join(err, file.Close())
	}
	return file, info, nil
}

// Read returns what a file has, which is at most this number of bytes.
func Read(path string, most int) ([]byte, fs.FileInfo, error) {
	file, info, err := Open(path)
	if err != nil {
		return nil, nil, err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, int64(most)+1))
	if err == nil && len(data) > most {
		err = fmt.Errorf("%s: %w: more than %d bytes", path, ErrSize, most)
	}
	if err != nil {
		return nil, nil, err
	}
	return data, info, nil
}
