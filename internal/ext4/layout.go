package ext4

// shape is how the file system is divided.
type shape struct {
	groups, inodesPerGroup int64
	tables, bitmaps        int64 // the blocks that they begin at
	end                    int64 // of what is written
	blocks                 int64
}

// shape is that of as few groups as will do.
func (w *writer) shape() (shape, error) {
	const inodesPerBlock, most = blockSize / inodeSize, 8 * blockSize // bits of a bitmap
	s := shape{tables: w.pos / blockSize}
	for s.groups = 1; ; s.groups++ {
		s.inodesPerGroup = ceil(ceil(int64(w.inodes.n), s.groups), inodesPerBlock) * inodesPerBlock
		s.bitmaps = s.tables + s.groups*s.inodesPerGroup/inodesPerBlock
		s.end = s.bitmaps + 2*s.groups
		if s.inodesPerGroup <= most && s.end <= s.groups*blocksPerGroup {
			break
		}
	}
	s.blocks = max(s.end, (s.groups-1)*blocksPerGroup+1)
	if s.blocks*blockSize > w.limit {
		return s, w.tooLarge()
	}
	return s, nil
}

// writeGroups writes bitmaps, descriptors and superblock.
func (w *writer) writeGroups(s shape) error {
	dirs := make([]uint16, s.groups)
	for _, dir := range w.dirs {
		dirs[int64(dir.number-1)/s.inodesPerGroup]++
	}
	reservedEnd := 1 + w.descriptorBlocks()
	reserved := 1 + ceil(s.groups*descriptorSize, blockSize)
	descriptors := make([]byte, s.groups*descriptorSize)
	var allFreeBlocks, allFreeInodes int64
	for g := range s.groups {
		bitmaps := make([]byte, 2*blockSize)
		freeBlocks := fill(bitmaps[:blockSize], blocksPerGroup, func(i int64) (used, there bool) {
			block := g*blocksPerGroup + i
			return block < s.end && (block < reserved || block >= reservedEnd) && !w.unused[block], block < s.blocks
		})
		freeInodes := fill(bitmaps[blockSize:], s.inodesPerGroup, func(i int64) (used, there bool) {
			return g*s.inodesPerGroup+i < int64(w.inodes.n), true
		})
		at := s.bitmaps + 2*g
		if _, err := w.file.WriteAt(bitmaps, at*blockSize); err != nil {
			return err
		}
		d := descriptors[g*descriptorSize:]
		put32(d, uint32(at))
		put32(d[0x4:], uint32(at+1))
		put32(d[0x8:], uint32(s.tables+g*s.inodesPerGroup*inodeSize/blockSize))
		put16(d[0xc:], uint16(freeBlocks))
		put16(d[0xe:], uint16(freeInodes))
		put16(d[0x10:], dirs[g])
		allFreeBlocks += freeBlocks
		allFreeInodes += freeInodes
	}
	if _, err := w.file.WriteAt(descriptors, blockSize); err != nil {
		return err
	}
	_, err := w.file.WriteAt(super(uint32(s.blocks), uint32(allFreeBlocks), uint32(s.groups*s.inodesPerGroup), uint32(allFreeInodes), uint32(s.inodesPerGroup)), superOffset)
	return err
}

// fill sets the bits of a bitmap, of which n count, for what is used or not
// there. It returns how many are free.
func fill(bitmap []byte, n int64, state func(i int64) (used, there bool)) (free int64) {
	for i := range int64(len(bitmap)) * 8 {
		used, there := true, false
		if i < n {
			used, there = state(i)
		}
		if there && !used {
			free++
			continue
		}
		bitmap[i/8] |= 1 << (i % 8)
	}
	return free
}
