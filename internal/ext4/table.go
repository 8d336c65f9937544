package ext4

import (
	"bufio"
	"os"

	"banger/internal/tempfile"
)

// table keeps inodes, which begin with number 1, in a file without a name until
// they are written.
type table struct {
	file *os.File
	out  *bufio.Writer
	n    uint32 // the last
}

func newTable(dir string) (*table, error) {
	file, err := tempfile.Open(dir)
	if err != nil {
		return nil, err
	}
	return &table{file: file, out: bufio.NewWriterSize(file, 128<<10)}, nil
}

func (t *table) add(inode *record) (uint32, error) {
	t.n++
	_, err := t.out.Write(inode[:])
	return t.n, err
}

// change lets f change an inode.
func (t *table) change(number uint32, f func(*record)) error {
	if err := t.out.Flush(); err != nil {
		return err
	}
	var inode record
	at := int64(number-1) * inodeSize
	if _, err := t.file.ReadAt(inode[:], at); err != nil {
		return err
	}
	f(&inode)
	_, err := t.file.WriteAt(inode[:], at)
	return err
}
