package ext4

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"slices"
	"strings"
)

// xattr is an extended attribute: a kind, the rest of its name, its value.
type xattr struct {
	kind  byte
	name  string
	value string
}

const (
	xattrRecord = "SCHILY.xattr." // what tar calls them
	xattrMagic  = 0xea020000
	xattrEntry  = 16 // bytes, without the name
	xattrEnd    = 4
)

// Those of an inode are in what is left of it, else in a block of their own.
const (
	xattrInsideHead = 4
	xattrBlockHead  = 32
)

var xattrKinds = []struct {
	prefix string
	kind   byte
}{
	{"user.", 1},
	{"system.posix_acl_access", 2},
	{"system.posix_acl_default", 3},
	{"trusted.", 4},
	{"security.", 6},
}

func (x xattr) size() int { return xattrEntry + round4(len(x.name)) + round4(len(x.value)) }

func round4(n int) int { return (n + 3) &^ 3 }

// hash is what the kernel verifies.
func (x xattr) hash() uint32 {
	var h uint32
	for _, c := range []byte(x.name) {
		h = h<<5 ^ h>>27 ^ uint32(c)
	}
	value := append([]byte(x.value), make([]byte, round4(len(x.value))-len(x.value))...)
	for ; len(value) > 0; value = value[4:] {
		h = h<<16 ^ h>>16 ^ get32(value)
	}
	return h
}

// xattrs gives an inode those of a tar header.
func (w *writer) xattrs(inode *record, records map[string]string) error {
	list, err := parseXattrs(records)
	if err != nil || len(list) == 0 {
		return err
	}
	inside, block := inodeSize-xattrsInside-xattrInsideHead-xattrEnd, blockSize-xattrBlockHead-xattrEnd
	var here, there []xattr
	for _, x := range list {
		switch size := x.size(); {
		case size <= inside:
			inside -= size
			here = append(here, x)
		case size <= block:
			block -= size
			there = append(there, x)
		default:
			return fmt.Errorf("its extended attributes do not fit: %d bytes in %q", len(x.value), x.name)
		}
	}
	if len(here) > 0 {
		own := inode[xattrsInside:]
		put32(own, xattrMagic)
		putXattrs(own[xattrInsideHead:], here, 0)
	}
	if len(there) == 0 {
		return nil
	}
	b := make([]byte, blockSize)
	put32(b, xattrMagic)
	put32(b[4:], 1) // inodes that have it
	put32(b[8:], 1) // blocks
	putXattrs(b[xattrBlockHead:], there, xattrBlockHead)
	put32(inode[atXattrs:], uint32(w.pos/blockSize))
	inode.addBlocks(1)
	return w.write(b)
}

// parseXattrs returns the extended attributes of a header in the order in which
// the kernel looks for them.
func parseXattrs(records map[string]string) ([]xattr, error) {
	var list []xattr
	for key, value := range records {
		full, ok := strings.CutPrefix(key, xattrRecord)
		if !ok {
			continue
		}
		var x xattr
		for _, known := range xattrKinds {
			if name, ok := strings.CutPrefix(full, known.prefix); ok {
				x = xattr{known.kind, name, value}
			}
		}
		if x.kind == 0 || len(x.name) > maxName {
			return nil, fmt.Errorf("ext4 has no extended attributes like %q", full)
		}
		if strings.HasPrefix(full, "system.") {
			if x.value, ok = acl(value); !ok {
				continue
			}
		}
		list = append(list, x)
	}
	slices.SortFunc(list, func(a, b xattr) int {
		return cmp.Or(cmp.Compare(a.kind, b.kind), cmp.Compare(len(a.name), len(b.name)), cmp.Compare(a.name, b.name))
	})
	return list, nil
}

// putXattrs writes entries from the begin of b on, and values from its end.
// Base is what values' places count from, before b.
func putXattrs(b []byte, list []xattr, base int) {
	at, values := 0, len(b)
	for _, x := range list {
		values -= round4(len(x.value))
		copy(b[values:], x.value)
		entry := b[at:]
		entry[0], entry[1] = byte(len(x.name)), x.kind
		put16(entry[2:], uint16(base+values))
		put32(entry[8:], uint32(len(x.value)))
		put32(entry[12:], x.hash())
		copy(entry[xattrEntry:], x.name)
		at += xattrEntry + round4(len(x.name))
	}
}

// acl makes ext4's form of an access control list of the kernel's, which tar
// has: a version, then entries of which only those for a certain user or group
// have an id. ok is false for what is none.
func acl(value string) (stored string, ok bool) {
	const (
		kernelVersion, storedVersion = 2, 1
		entrySize                    = 8
		user, group                  = 0x02, 0x08
	)
	b := []byte(value)
	if len(b) < 4 || (len(b)-4)%entrySize != 0 || get32(b) != kernelVersion {
		return "", false
	}
	list := binary.LittleEndian.AppendUint32(nil, storedVersion)
	for entry := b[4:]; len(entry) > 0; entry = entry[entrySize:] {
		list = append(list, entry[:4]...)
		if tag := binary.LittleEndian.Uint16(entry); tag == user || tag == group {
			list = append(list, entry[4:entrySize]...)
		}
	}
	return string(list), true
}
