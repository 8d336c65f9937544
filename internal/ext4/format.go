package ext4

import (
	"encoding/binary"
	"errors"
	"time"
)

// The format, as the kernel's documentation has it ("ext4 Data Structures and
// Algorithms"). Numbers are little-endian. The layout here: superblock, group
// descriptors, content, the inode tables of all groups, the bitmaps of all
// groups.
const (
	blockSize      = 4096
	inodeSize      = 256
	blocksPerGroup = 8 * blockSize // as many as a block of bitmap has bits
	descriptorSize = 32

	superOffset = 1024
	superSize   = 1024

	inodeRoot      = 2
	inodeLostFound = 11 // the first that is not reserved
)

// Modes and directory entries have types of their own.
const (
	modeFIFO   = 0x1000
	modeChar   = 0x2000
	modeDir    = 0x4000
	modeBlock  = 0x6000
	modeFile   = 0x8000
	modeLink   = 0xa000
	modeFormat = 0xf000
)

const typeDir = 2

func entryType(mode uint16) byte {
	return map[uint16]byte{modeFile: 1, modeDir: typeDir, modeChar: 3, modeBlock: 4, modeFIFO: 5, modeLink: 7}[mode&modeFormat]
}

var (
	put16 = binary.LittleEndian.PutUint16
	put32 = binary.LittleEndian.PutUint32
	get32 = binary.LittleEndian.Uint32
)

// record is an inode as it is on the disk.
type record [inodeSize]byte

// Places in a record.
const (
	atMode, atUID, atSize, atGID, atLinks        = 0x00, 0x02, 0x04, 0x18, 0x1a
	atBlocks, atFlags, atBlock, atXattrs         = 0x1c, 0x20, 0x28, 0x68
	atSizeHigh, atUIDHigh, atGIDHigh             = 0x6c, 0x78, 0x7a
	atExtraSize                                  = 0x80
	blockBytes                                   = 60              // at atBlock: extents, a link's target, a device
	extraSize                                    = 24              // to the time of creation, with its extra bits
	xattrsInside                                 = 128 + extraSize // to the record's end
	flagExtents                           uint32 = 0x80000
)

func newRecord(mode uint16, modified time.Time) record {
	var r record
	put16(r[atMode:], mode)
	put16(r[atLinks:], 1)
	put16(r[atExtraSize:], extraSize)
	r.setTimes(modified)
	return r
}

func (r *record) setOwner(uid, gid uint32) {
	put16(r[atUID:], uint16(uid))
	put16(r[atUIDHigh:], uint16(uid>>16))
	put16(r[atGID:], uint16(gid))
	put16(r[atGIDHigh:], uint16(gid>>16))
}

func (r *record) setSize(size int64) {
	put32(r[atSize:], uint32(size))
	put32(r[atSizeHigh:], uint32(size>>32))
}

// sectors are what blocks are counted in.
const sectors = blockSize / 512

func (r *record) blocks() int64 { return int64(get32(r[atBlocks:]) / sectors) }

func (r *record) addBlocks(n int64) { put32(r[atBlocks:], uint32((r.blocks()+n)*sectors)) }

func (r *record) setLinks(n uint32) {
	// What a directory has when it cannot be counted: the feature dir_nlink.
	if n > maxLinks {
		n = 1
	}
	put16(r[atLinks:], uint16(n))
}

// setTimes lets the inode be of one time. The low 32 bits of the seconds are a
// signed number; beside them are, in units of 2^32, what is to be added, and the
// nanoseconds.
func (r *record) setTimes(t time.Time) {
	const first, last = -1 << 31, 1<<34 - 1<<31 - 1
	seconds := min(max(t.Unix(), first), last)
	extra := uint32((seconds-int64(int32(seconds)))>>32) | uint32(t.Nanosecond())<<2
	// Access, change of the inode, change of the content, creation.
	for _, at := range [][2]int{{0x08, 0x8c}, {0x0c, 0x84}, {0x10, 0x88}, {0x90, 0x94}} {
		put32(r[at[0]:], uint32(seconds))
		put32(r[at[1]:], extra)
	}
}

func (r *record) setDevice(major, minor uint32) {
	put32(r[atBlock+4:], minor&0xff|major<<8|minor&^0xff<<12)
}

// Extents, which say where content is, are lists of 12 bytes an entry after a
// head of 12 bytes. That in the inode has 4 entries, one in a block 340.
const (
	extentSize     = 12
	extentBlocks   = 1 << 15 // that one may have
	extentsInside  = 4
	extentsInBlock = blockSize/extentSize - 1
)

func putExtentsHead(b []byte, entries, room, depth int) {
	put16(b, 0xf30a)
	put16(b[2:], uint16(entries))
	put16(b[4:], uint16(room))
	put16(b[6:], uint16(depth))
}

// putExtents writes a list of those that blocks first to last of a file have,
// the first of which is at start.
func putExtents(b []byte, first, last, start int64) {
	n := 0
	for at := first; at < last; n++ {
		length := min(last-at, extentBlocks)
		entry := b[extentSize*(n+1):]
		put32(entry, uint32(at))
		put16(entry[4:], uint16(length))
		put32(entry[8:], uint32(start+at-first))
		at += length
	}
	putExtentsHead(b, n, len(b)/extentSize-1, 0)
}

// setExtents lets the inode have blocks from start on. It returns the blocks
// that are to be written behind them, since they do not all fit.
func (r *record) setExtents(start, blocks int64) (more []byte, err error) {
	put32(r[atFlags:], get32(r[atFlags:])|flagExtents)
	inside := r[atBlock : atBlock+blockBytes]
	if blocks <= extentsInside*extentBlocks {
		putExtents(inside, 0, blocks, start)
		r.addBlocks(blocks)
		return nil, nil
	}
	const each = extentsInBlock * extentBlocks
	n := int((blocks + each - 1) / each)
	if n > extentsInside {
		return nil, errors.New("a file is too large")
	}
	more = make([]byte, n*blockSize)
	putExtentsHead(inside, n, extentsInside, 1)
	for i := range int64(n) {
		entry := inside[extentSize*(i+1):]
		put32(entry, uint32(i*each))
		put32(entry[4:], uint32(start+blocks+i))
		putExtents(more[i*blockSize:(i+1)*blockSize], i*each, min(blocks, (i+1)*each), start+i*each)
	}
	r.addBlocks(blocks + int64(n))
	return more, nil
}

// super makes a superblock.
func super(blocks, freeBlocks, inodes, freeInodes, inodesPerGroup uint32) []byte {
	const (
		extAttr, sparseSuper2                         = 0x8, 0x200
		fileType, extents, flexGroups                 = 0x2, 0x40, 0x200
		largeFile, dirNlink, extraInodeSize, readOnly = 0x2, 0x20, 0x40, 0x1000

		logBlockSize = 2  // 1024 << 2
		allGroups    = 31 // log2 of how many have their tables in one place
	)
	b := make([]byte, superSize)
	for _, field := range []struct {
		at    int
		value uint32
	}{
		{0x00, inodes},
		{0x04, blocks},
		{0x0c, freeBlocks},
		{0x10, freeInodes},
		{0x18, logBlockSize},
		{0x1c, logBlockSize}, // of clusters
		{0x20, blocksPerGroup},
		{0x24, blocksPerGroup}, // of clusters
		{0x28, inodesPerGroup},
		{0x38, 0xef53 | 1<<16},                  // the magic number; clean
		{0x3c, 1},                               // go on after an error
		{0x4c, 1},                               // revision
		{0x54, inodeLostFound},                  // first inode that is not reserved
		{0x58, inodeSize},                       //
		{0x5c, extAttr | sparseSuper2},          // features that need not be known,
		{0x60, fileType | extents | flexGroups}, // that must be,
		{0x64, largeFile | dirNlink | extraInodeSize | readOnly}, // and that must be to write
		{0x15c, extraSize | extraSize<<16},                       // that inodes have and want
		{0x174, allGroups},
		{0x268, inodeLostFound},
	} {
		put32(b[field.at:], field.value)
	}
	return b
}
