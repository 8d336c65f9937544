package initramfs

import (
	"errors"
	"fmt"
	"io"
)

// File types of a cpio entry's mode, as in stat(2).
const (
	typeDir  = 0o040000
	typeChar = 0o020000
	typeFile = 0o100000
)

// cpioWriter writes an archive in the format "newc", the one the kernel reads.
// Entries belong to root and have no time, so that equal trees make equal
// archives.
type cpioWriter struct {
	w     io.Writer
	inode uint32
}

// entry writes one entry. Size bytes are taken from r, which is nil for what
// is no file; major and minor are those of a device.
func (c *cpioWriter) entry(name string, mode uint32, size int64, r io.Reader, major, minor uint32) error {
	if size < 0 || size > 1<<32-1 {
		return fmt.Errorf("%q is too large: %d bytes", name, size)
	}
	c.inode++
	const links, uid, gid, mtime, devMajor, devMinor, check = 1, 0, 0, 0, 0, 0, 0
	header := fmt.Appendf(nil, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%s\x00",
		c.inode, mode, uid, gid, links, mtime, size, devMajor, devMinor, major, minor, len(name)+1, check, name)
	if err := c.padded(header); err != nil {
		return err
	}
	if size == 0 {
		return nil
	}
	n, err := io.Copy(c.w, io.LimitReader(r, size))
	if err != nil {
		return err
	}
	if n != size {
		return fmt.Errorf("%q has become shorter", name)
	}
	return c.pad(size)
}

// padded writes data and what brings it to the next multiple of four.
func (c *cpioWriter) padded(data []byte) error {
	_, err := c.w.Write(data)
	return errors.Join(err, c.pad(int64(len(data))))
}

func (c *cpioWriter) pad(size int64) error {
	_, err := c.w.Write(make([]byte, -size&3))
	return err
}

func (c *cpioWriter) dir(name string) error { return c.entry(name, typeDir|0o755, 0, nil, 0, 0) }

// end writes the end of the archive.
func (c *cpioWriter) end() error {
	return c.entry("TRAILER!!!", 0, 0, nil, 0, 0)
}
