package ext4

import (
	"archive/tar"
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"banger/internal/sparse"
)

const (
	maxName   = 255
	maxLinks  = 65000 // names of a file, as for the kernel
	maxTarget = blockSize - 1
)

// writer writes content as it comes, and what leads to it at the end.
type writer struct {
	file   *os.File
	out    *bufio.Writer // of file
	pos    int64         // of out, in bytes
	limit  int64
	inodes *table
	dirs   []*directory      // in the order in which they have come
	links  map[uint32]uint32 // names beyond the first, of files that have some
	unused map[int64]bool    // blocks that were written and nothing leads to any more

	// Where the last name was: the next is mostly there too.
	last     *directory
	lastPath string
}

func newWriter(file *os.File, limit int64) (*writer, error) {
	inodes, err := newTable(filepath.Dir(file.Name()))
	if err != nil {
		return nil, err
	}
	w := &writer{
		file: file, out: bufio.NewWriterSize(sparse.NewWriter(file), 1<<20), limit: limit, inodes: inodes,
		links: map[uint32]uint32{}, unused: map[int64]bool{},
	}
	if err := w.begin(); err != nil {
		return nil, errors.Join(err, inodes.file.Close())
	}
	return w, nil
}

// begin leaves room for what is at the file system's begin, and makes the
// inodes that each has.
func (w *writer) begin() error {
	if err := w.write(make([]byte, (1+w.descriptorBlocks())*blockSize)); err != nil {
		return err
	}
	for number := uint32(1); number < inodeLostFound; number++ {
		var inode record
		if number == inodeRoot {
			inode = newRecord(modeDir|0o755, time.Unix(0, 0))
			w.addDirectory(number, number)
		}
		if _, err := w.inodes.add(&inode); err != nil {
			return err
		}
	}
	_, err := w.makeDirectory(w.dirs[0], "lost+found", newRecord(modeDir|0o700, time.Unix(0, 0)))
	return err
}

// descriptorBlocks are what is reserved for the groups' descriptors.
func (w *writer) descriptorBlocks() int64 {
	const each = blockSize / descriptorSize
	return ceil(ceil(w.limit, blocksPerGroup*blockSize), each)
}

func ceil(n, unit int64) int64 { return (n + unit - 1) / unit }

func (w *writer) write(b []byte) error {
	n, err := w.out.Write(b)
	w.pos += int64(n)
	return err
}

func (w *writer) tooLarge() error {
	return fmt.Errorf("it would have more than %d MiB", w.limit>>20)
}

// content writes what an inode has, size bytes of r, and lets it lead there.
func (w *writer) content(inode *record, r io.Reader, size int64) error {
	if size > w.limit-w.pos {
		return w.tooLarge()
	}
	inode.setSize(size)
	if size == 0 {
		return nil
	}
	start := w.pos / blockSize
	n, err := io.CopyN(w.out, r, size)
	if w.pos += n; err != nil {
		return err
	}
	if rest := w.pos % blockSize; rest > 0 {
		if err := w.write(make([]byte, blockSize-rest)); err != nil {
			return err
		}
	}
	more, err := inode.setExtents(start, ceil(size, blockSize))
	if err != nil {
		return err
	}
	return w.write(more)
}

// add writes the next entry of an archive.
func (w *writer) add(header *tar.Header, content io.Reader) error {
	name := path.Clean("/" + header.Name)
	if name == "/" {
		if header.Typeflag != tar.TypeDir {
			return errors.New("the root is not a directory")
		}
		return w.addInode(nil, "", header, content)
	}
	dirPath, base := path.Split(name)
	dir, err := w.directory(dirPath, header.ModTime)
	if err != nil {
		return err
	}
	if len(base) > maxName {
		return fmt.Errorf("its name has %d bytes", len(base))
	}
	if header.Typeflag == tar.TypeLink {
		return w.link(dir, base, path.Clean("/"+header.Linkname))
	}
	return w.addInode(dir, base, header, content)
}

// addInode writes an inode and gives it a name; a directory that has it already
// becomes what the header says. Dir is nil for the root.
func (w *writer) addInode(dir *directory, name string, header *tar.Header, content io.Reader) error {
	kind, ok := map[byte]uint16{
		tar.TypeReg: modeFile, tar.TypeCont: modeFile, tar.TypeGNUSparse: modeFile, tar.TypeDir: modeDir,
		tar.TypeSymlink: modeLink, tar.TypeChar: modeChar, tar.TypeBlock: modeBlock, tar.TypeFifo: modeFIFO,
	}[header.Typeflag]
	if !ok {
		return fmt.Errorf("its type %q is not known", header.Typeflag)
	}
	if !within(header.Uid, math.MaxUint32) || !within(header.Gid, math.MaxUint32) {
		return fmt.Errorf("it cannot belong to %d:%d", header.Uid, header.Gid)
	}
	inode := newRecord(kind|uint16(header.Mode&0o7777), header.ModTime)
	inode.setOwner(uint32(header.Uid), uint32(header.Gid))
	var err error
	switch kind {
	case modeFile:
		err = w.content(&inode, content, header.Size)
	case modeLink:
		err = w.symlink(&inode, header.Linkname)
	case modeChar, modeBlock:
		const maxMajor, maxMinor = 1<<12 - 1, 1<<20 - 1
		if !within(header.Devmajor, maxMajor) || !within(header.Devminor, maxMinor) {
			return fmt.Errorf("it cannot be the device %d:%d", header.Devmajor, header.Devminor)
		}
		inode.setDevice(uint32(header.Devmajor), uint32(header.Devminor))
	}
	if err != nil {
		return err
	}
	if err := w.xattrs(&inode, header.PAXRecords); err != nil {
		return err
	}
	if kind == modeDir {
		there := w.dirs[0]
		if dir != nil {
			found, _ := dir.find(name)
			there = w.dirOf(found)
		}
		if there != nil {
			return w.inodes.change(there.number, func(r *record) {
				if xattrs := get32(r[atXattrs:]); xattrs != 0 {
					w.unused[int64(xattrs)] = true
				}
				*r = inode
			})
		}
		_, err := w.makeDirectory(dir, name, inode)
		return err
	}
	number, err := w.inodes.add(&inode)
	if err != nil {
		return err
	}
	dir.add(name, entry{number, entryType(kind)})
	return nil
}

func within[T int | int64](n, most T) bool { return n >= 0 && n <= most }

func (w *writer) symlink(inode *record, target string) error {
	if len(target) == 0 || len(target) > maxTarget {
		return fmt.Errorf("it cannot be a link to a name of %d bytes", len(target))
	}
	if len(target) < blockBytes {
		inode.setSize(int64(len(target)))
		copy(inode[atBlock:], target)
		return nil
	}
	return w.content(inode, strings.NewReader(target), int64(len(target)))
}

// link gives a file another name.
func (w *writer) link(dir *directory, name, target string) error {
	targetDir, base := path.Split(target)
	found, ok := entry{}, false
	if in, err := w.lookup(targetDir); err == nil {
		found, ok = in.find(base)
	}
	if !ok {
		return fmt.Errorf("it is a hard link to %q, which has not come before", target)
	}
	if found.typ == typeDir {
		return fmt.Errorf("it is a hard link to the directory %q", target)
	}
	if w.links[found.place]++; 1+w.links[found.place] > maxLinks {
		return fmt.Errorf("%q has more than %d names", target, maxLinks)
	}
	dir.add(name, found)
	return nil
}

func (w *writer) addDirectory(number, parent uint32) *directory {
	dir := &directory{number: number, parent: parent}
	w.dirs = append(w.dirs, dir)
	return dir
}

// dirOf returns nil for what is not a directory.
func (w *writer) dirOf(e entry) *directory {
	if e.typ != typeDir {
		return nil
	}
	return w.dirs[e.place]
}

// number is that of an entry's inode.
func (w *writer) number(e entry) uint32 {
	if dir := w.dirOf(e); dir != nil {
		return dir.number
	}
	return e.place
}

func (w *writer) makeDirectory(parent *directory, name string, inode record) (*directory, error) {
	number, err := w.inodes.add(&inode)
	if err != nil {
		return nil, err
	}
	parent.add(name, entry{uint32(len(w.dirs)), typeDir})
	parent.subdirs++
	return w.addDirectory(number, parent.number), nil
}

// errMissing says that there is no such directory.
var errMissing = errors.New("the directory is not there")

// lookup returns the directory of a clean path that begins and ends with a slash.
func (w *writer) lookup(dirPath string) (*directory, error) {
	if w.last != nil && w.lastPath == dirPath {
		return w.last, nil
	}
	at := w.dirs[0]
	for name := range strings.SplitSeq(strings.Trim(dirPath, "/"), "/") {
		if name == "" {
			continue
		}
		found, ok := at.find(name)
		if !ok {
			return nil, errMissing
		}
		if at = w.dirOf(found); at == nil {
			return nil, fmt.Errorf("%q is not a directory", name)
		}
	}
	return at, nil
}

// directory is lookup that makes what is missing.
func (w *writer) directory(dirPath string, modified time.Time) (*directory, error) {
	dir, err := w.lookup(dirPath)
	if errors.Is(err, errMissing) {
		parent, base := path.Split(strings.TrimSuffix(dirPath, "/"))
		if len(base) > maxName {
			return nil, fmt.Errorf("the name of a directory has %d bytes", len(base))
		}
		if dir, err = w.directory(parent, modified); err == nil {
			dir, err = w.makeDirectory(dir, base, newRecord(modeDir|0o755, modified))
		}
	}
	if err != nil {
		return nil, err
	}
	w.last, w.lastPath = dir, dirPath
	return dir, nil
}

// finish writes what leads to the content.
func (w *writer) finish() error {
	var content []byte
	for _, dir := range w.dirs {
		var err error
		if content, err = dir.blocks(content[:0], w.number); err != nil {
			return err
		}
		if err := w.finishDirectory(dir, content); err != nil {
			return err
		}
	}
	for number, more := range w.links {
		if err := w.inodes.change(number, func(r *record) { r.setLinks(1 + more) }); err != nil {
			return err
		}
	}
	if err := errors.Join(w.out.Flush(), w.inodes.out.Flush()); err != nil {
		return err
	}
	shape, err := w.shape()
	if err != nil {
		return err
	}
	if _, err := w.inodes.file.Seek(0, io.SeekStart); err != nil {
		return err
	}
	if _, err := w.file.Seek(w.pos, io.SeekStart); err != nil {
		return err
	}
	if _, err := io.Copy(w.file, w.inodes.file); err != nil {
		return err
	}
	if err := w.file.Truncate(shape.blocks * blockSize); err != nil {
		return err
	}
	return w.writeGroups(shape)
}

func (w *writer) finishDirectory(dir *directory, content []byte) error {
	var inode record
	if err := w.content(&inode, bytes.NewReader(content), int64(len(content))); err != nil {
		return err
	}
	return w.inodes.change(dir.number, func(r *record) {
		const toBlock = atBlock + blockBytes
		copy(r[atBlock:toBlock], inode[atBlock:toBlock])
		put32(r[atFlags:], flagExtents)
		r.setSize(int64(len(content)))
		r.addBlocks(inode.blocks())
		r.setLinks(2 + dir.subdirs)
	})
}
