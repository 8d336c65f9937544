package ext4

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
)

// repairTimes corrects times in a file system that tar2ext4 has written. Ext4
// keeps the low 32 bits of the seconds as a signed number, and beside them what
// is to be added, in units of 2^32; tar2ext4 writes the bits of the whole.
// That is another time wherever the sign is set: before 1970, of which it also
// loses the nanoseconds, and after 2038.
func repairTimes(file *os.File) error {
	const (
		superAt, superSize                 = 1024, 1024
		blockSizeAt, inodesPerAt, inodesAt = 24, 40, 0 // in the superblock
		inodeSizeAt                        = 88
		tableAt, descriptorSize            = 8, 32 // in and of a group's descriptor
	)
	super := make([]byte, superSize)
	if _, err := file.ReadAt(super, superAt); err != nil {
		return err
	}
	number := func(b []byte, at int) int64 { return int64(binary.LittleEndian.Uint32(b[at:])) }
	blockSize := int64(1024) << number(super, blockSizeAt)
	inodeSize := int64(binary.LittleEndian.Uint16(super[inodeSizeAt:]))
	inodes, perGroup := number(super, inodesAt), number(super, inodesPerAt)
	if inodes == 0 || perGroup == 0 || inodes%perGroup != 0 || blockSize <= superAt {
		return errors.New("its superblock is not understood")
	}
	descriptors := make([]byte, inodes/perGroup*descriptorSize)
	if _, err := file.ReadAt(descriptors, blockSize); err != nil {
		return err
	}
	table := make([]byte, perGroup*inodeSize)
	for ; len(descriptors) > 0; descriptors = descriptors[descriptorSize:] {
		at := number(descriptors, tableAt) * blockSize
		if _, err := file.ReadAt(table, at); err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		for i := range perGroup {
			inode := table[i*inodeSize : (i+1)*inodeSize]
			if !repairInode(inode) {
				continue
			}
			if _, err := file.WriteAt(inode, at+i*inodeSize); err != nil {
				return fmt.Errorf("cannot correct a time: %w", err)
			}
		}
	}
	return nil
}

// repairInode tells whether it has changed something.
func repairInode(inode []byte) (changed bool) {
	const (
		negative = 1 << 31
		overrun  = 0xffffffff // what a time before 1970 leaves, with impossible nanoseconds
	)
	// Where the seconds of the four times are, and what else belongs to them:
	// two bits of what is added, and the nanoseconds.
	for _, at := range [][2]int{{0x08, 0x8c}, {0x0c, 0x84}, {0x10, 0x88}, {0x90, 0x94}} {
		if binary.LittleEndian.Uint32(inode[at[0]:])&negative == 0 {
			continue
		}
		changed = true
		extra := binary.LittleEndian.Uint32(inode[at[1]:])
		if extra == overrun {
			extra = 0
		} else {
			extra++ // never three already: later times are not written
		}
		binary.LittleEndian.PutUint32(inode[at[1]:], extra)
	}
	return changed
}
