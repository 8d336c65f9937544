package ext4

import (
	"bytes"
	"fmt"
	"slices"
)

// directory is one whose names are not written yet.
type directory struct {
	number, parent uint32 // inodes
	subdirs        uint32
	// names are, one after the other: an entry's place and type, the name's
	// length, the name.
	names []byte
	// index has those before indexed, once they are too many to search through.
	index   map[string]entry
	indexed uint32
}

// entry is what a name in a directory means.
type entry struct {
	place uint32 // an inode's number; of a directory where it is among all
	typ   byte   // entryType's
}

const (
	nameHead = 4 + 1 + 1
	// searched is how many bytes of names are searched through from the begin.
	searched = 512
)

func (d *directory) add(name string, e entry) {
	var head [nameHead]byte
	put32(head[:], e.place)
	head[4], head[5] = e.typ, byte(len(name))
	d.names = append(append(d.names, head[:]...), name...)
}

// at returns the name that begins there, and where the next one does.
func (d *directory) at(offset int) (name []byte, e entry, next int) {
	b := d.names[offset:]
	end := nameHead + int(b[5])
	return b[nameHead:end], entry{get32(b), b[4]}, offset + end
}

func (d *directory) find(name string) (entry, bool) {
	if len(d.names) <= searched {
		for at := 0; at < len(d.names); {
			found, e, next := d.at(at)
			if string(found) == name {
				return e, true
			}
			at = next
		}
		return entry{}, false
	}
	if d.index == nil {
		d.index = map[string]entry{}
	}
	for int(d.indexed) < len(d.names) {
		found, e, next := d.at(int(d.indexed))
		d.index[string(found)] = e
		d.indexed = uint32(next)
	}
	e, ok := d.index[name]
	return e, ok
}

// checkTwice refuses a name that is there twice: no kernel would.
func (d *directory) checkTwice() error {
	var order []int
	for at := 0; at < len(d.names); {
		order = append(order, at)
		_, _, at = d.at(at)
	}
	name := func(at int) []byte {
		found, _, _ := d.at(at)
		return found
	}
	slices.SortFunc(order, func(a, b int) int { return bytes.Compare(name(a), name(b)) })
	for i := 1; i < len(order); i++ {
		if found := name(order[i]); bytes.Equal(found, name(order[i-1])) {
			return fmt.Errorf("a directory has the name %q twice", found)
		}
	}
	return nil
}

// blocks appends to b, which is empty, what the directory is on the disk, and
// gives its names up. Inode tells the numbers of those that entries mean.
func (d *directory) blocks(b []byte, inode func(entry) uint32) ([]byte, error) {
	if err := d.checkTwice(); err != nil {
		return nil, err
	}
	const head = 8
	last := 0 // where the last one begins: it goes to the block's end
	add := func(name []byte, number uint32, typ byte) {
		length := (head + len(name) + 3) &^ 3
		if end := (len(b) + blockSize - 1) &^ (blockSize - 1); len(b)+length > end {
			if len(b) > 0 {
				put16(b[last+4:], uint16(end-last))
			}
			b = append(b, make([]byte, end-len(b))...)
		}
		last = len(b)
		b = append(b, make([]byte, length)...)
		put32(b[last:], number)
		put16(b[last+4:], uint16(length))
		b[last+6], b[last+7] = byte(len(name)), typ
		copy(b[last+head:], name)
	}
	add([]byte("."), d.number, typeDir)
	add([]byte(".."), d.parent, typeDir)
	for at := 0; at < len(d.names); {
		name, e, next := d.at(at)
		add(name, inode(e), e.typ)
		at = next
	}
	end := (len(b) + blockSize - 1) &^ (blockSize - 1)
	put16(b[last+4:], uint16(end-last))
	b = append(b, make([]byte, end-len(b))...)
	d.names, d.index = nil, nil
	return b, nil
}
