package disk

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"

	"golang.org/x/sys/unix"
)

// Clone makes a file at path, where none is, with the content of another: the
// same blocks where the file system can share them, else a copy with the same
// holes. The other's content is read from its beginning to size bytes.
func Clone(ctx context.Context, from *os.File, size int64, path string) (err error) {
	to, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return wrap("create the file", path, err)
	}
	defer func() {
		err = errors.Join(err, to.Close())
		if err != nil {
			err = errors.Join(err, os.Remove(path))
		}
	}()
	if err := unix.IoctlFileClone(int(to.Fd()), int(from.Fd())); err == nil {
		if err := to.Truncate(size); err != nil { // it may have grown
			return wrap("write the file", path, err)
		}
		return nil
	}
	if err := to.Truncate(size); err != nil {
		return wrap("write the file", path, err)
	}
	for offset := int64(0); offset < size; {
		data, hole, err := nextData(from, offset, size)
		if err != nil {
			return wrap("copy to", path, err)
		}
		const piece = 16 << 20 // between looks at the context
		for at := data; at < hole; at += piece {
			if err := ctx.Err(); err != nil {
				return err
			}
			part := io.NewSectionReader(from, at, min(piece, hole-at))
			if _, err := io.Copy(io.NewOffsetWriter(to, at), part); err != nil {
				return wrap("copy to", path, err) // the cause says which of the two files it is
			}
		}
		offset = hole
	}
	return nil
}

// nextData returns where the next data from offset on begins and ends: both are
// size if there is none.
func nextData(file *os.File, offset, size int64) (data, hole int64, err error) {
	data, err = unix.Seek(int(file.Fd()), offset, unix.SEEK_DATA)
	if errors.Is(err, unix.ENXIO) {
		return size, size, nil
	}
	if err == nil {
		hole, err = unix.Seek(int(file.Fd()), data, unix.SEEK_HOLE)
	}
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENXIO) { // not known here
		return offset, size, nil
	}
	return min(data, size), min(hole, size), err
}

// Check says what keeps the file at path from being a clean ext4 file system
// that guests can mount without writing to it; nil is nothing. It is only read,
// by e2fsck for the most part.
func Check(ctx context.Context, path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	var block [1024]byte
	if _, err := file.ReadAt(block[:], superblockAt); err != nil {
		return errNoExt4
	}
	if err := checkSuperblock(block[:], info.Size()); err != nil {
		return err
	}
	_, err = output(ctx, "e2fsck", "-f", "-n", path)
	if tool, ok := errors.AsType[*toolError](err); ok {
		return fmt.Errorf("it is damaged: %w", &toolError{name: tool.name, said: finding(tool.said, path), err: tool.err})
	}
	return err
}

// Of what e2fsck says, what is about itself, and what it asks at the end of a
// line and answers.
var (
	aboutItself = regexp.MustCompile(`^(e2fsck[ :]|Pass [0-9])`)
	question    = regexp.MustCompile(`\s+[A-Z][^.?]*\? no$`)
)

// finding is the first thing that e2fsck has found, the last line without one.
// It does not name the file, which is a copy that nobody knows.
func finding(said, path string) string {
	for line := range strings.Lines(said) {
		line = strings.TrimSpace(line)
		if line != "" && !aboutItself.MatchString(line) && !strings.Contains(line, path) {
			return question.ReplaceAllString(line, "")
		}
	}
	return lastLine(said)
}

var errNoExt4 = errors.New("it is no ext4 file system")

// superblockAt is where an ext4's superblock is, which has 1024 bytes.
const superblockAt = 1024

// Of a superblock's fields these are the offsets, and these the bits.
const (
	sbBlocksLow, sbLogBlockSize, sbMagic, sbState = 0x4, 0x18, 0x38, 0x3a
	sbIncompat, sbBlocksHigh                      = 0x60, 0x150

	magic                       = 0xef53
	stateClean, stateBad        = 1, 2
	needsRecovery, is64         = 0x4, 0x80
	maxLogBlockSize             = 2 // 4096 bytes, a page: guests mount no more
	mountable            uint32 = 0x2 | 0x10 | 0x40 | is64 | 0x100 | 0x200 | 0x400 | 0x2000 | 0x4000 | 0x8000
)

// checkSuperblock judges the superblock of a file system in so many bytes.
func checkSuperblock(block []byte, size int64) error {
	le := binary.LittleEndian
	if le.Uint16(block[sbMagic:]) != magic {
		return errNoExt4
	}
	incompat := le.Uint32(block[sbIncompat:])
	state := le.Uint16(block[sbState:])
	switch {
	case incompat&needsRecovery != 0:
		return errors.New("it is in use, or was not unmounted: its journal has to be replayed first")
	case state&stateClean == 0 || state&stateBad != 0:
		return errors.New("it is not clean: e2fsck has to repair it first")
	case incompat&^mountable != 0:
		return fmt.Errorf("it has features that guests cannot mount: %#x", incompat&^mountable)
	}
	log := le.Uint32(block[sbLogBlockSize:])
	if log > maxLogBlockSize {
		return errors.New("its blocks are longer than 4096 bytes")
	}
	blocks := uint64(le.Uint32(block[sbBlocksLow:]))
	if incompat&is64 != 0 {
		blocks |= uint64(le.Uint32(block[sbBlocksHigh:])) << 32
	}
	if blocks == 0 || blocks > uint64(size)>>(10+log) {
		return errors.New("it is not whole: the file is shorter than the file system")
	}
	return nil
}

// executable is how debugfs shows a regular file that somebody may execute: one
// of the last three digits is odd.
var executable = regexp.MustCompile(`(?m)^Inode: \d+ +Type: regular +Mode: +[0-7]*[1357][0-7]{0,2} `)

// FirstProgramIn returns the first of these paths that leads to an executable
// regular file in the ext4 file system in a file, empty if none does. debugfs
// reads it.
func FirstProgramIn(ctx context.Context, path string, names ...string) (string, error) {
	for _, name := range names {
		said, err := output(ctx, "debugfs", "-R", "stat "+name+"/", path) // the slash has it follow a link
		if err != nil {
			return "", err
		}
		if executable.MatchString(said) {
			return name, nil
		}
	}
	return "", nil
}
