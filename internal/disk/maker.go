package disk

import (
	"bytes"
	"context"
	"os"
	"sync"
)

// Maker makes fresh disks as [Create] does, and remembers what mke2fs has written
// for a size: the next disk of that size is a copy, which takes a tenth of the
// time. Copies have one UUID, by which nobody looks for them. The zero value is
// ready for use, by any goroutine.
type Maker struct {
	mu    sync.Mutex
	known map[int64][]extent // by size
}

// extent is a part of a disk that is not all zeros.
type extent struct {
	offset int64
	data   []byte
}

const (
	// maxSizes bounds how many sizes are remembered: a VM has two.
	maxSizes = 8
	// maxTemplate is how much a fresh file system may take to be remembered.
	// A disk of 64 GiB has less than a MiB.
	maxTemplate = 4 << 20
	blockSize   = 4096
)

// Create is [Create]. A disk that need not outlive a crash of the host is not
// waited for to be on the host's own: lasting is false.
func (m *Maker) Create(ctx context.Context, path string, size int64, lasting bool) error {
	m.mu.Lock()
	extents := m.known[size]
	m.mu.Unlock()
	if extents != nil {
		return create(path, size, lasting, func(file *os.File) error {
			for _, e := range extents {
				if _, err := file.WriteAt(e.data, e.offset); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return create(path, size, lasting, func(file *os.File) error {
		if err := format(ctx, file.Name()); err != nil {
			return err
		}
		extents := extentsOf(file, size)
		if extents == nil {
			return nil
		}
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.known == nil || len(m.known) == maxSizes {
			m.known = make(map[int64][]extent)
		}
		m.known[size] = extents
		return nil
	})
}

// extentsOf reads what there is in a sparse file. It is nil for a file of which
// that is too much to be remembered, such as one on a file system without holes,
// and for one that cannot be read: the disk is none the worse for that.
func extentsOf(file *os.File, size int64) []extent {
	var extents []extent
	total := 0
	for offset := int64(0); ; {
		begin, end, err := nextData(file, offset, size)
		if err != nil {
			return nil
		}
		if begin == size {
			return extents
		}
		if total += int(min(end-begin, maxTemplate+1)); total > maxTemplate {
			return nil
		}
		data := make([]byte, end-begin)
		if _, err := file.ReadAt(data, begin); err != nil {
			return nil
		}
		extents = appendBlocks(extents, begin, data)
		offset = end
	}
}

var zeros [blockSize]byte

// appendBlocks adds the blocks of data that are not all zeros.
func appendBlocks(extents []extent, offset int64, data []byte) []extent {
	for len(data) > 0 {
		block := data[:min(blockSize, len(data))]
		data = data[len(block):]
		if !bytes.Equal(block, zeros[:len(block)]) {
			if last := len(extents) - 1; last >= 0 && extents[last].offset+int64(len(extents[last].data)) == offset {
				extents[last].data = append(extents[last].data, block...)
			} else {
				extents = append(extents, extent{offset, bytes.Clone(block)})
			}
		}
		offset += int64(len(block))
	}
	return extents
}
