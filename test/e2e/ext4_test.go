package e2e

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
)

// ext4 reads file systems as banger makes them, by the format's description
// and not by the code that writes them. It stands in for a mount.
type ext4 struct {
	file      *os.File
	blockSize int64
	inodeSize int64
	perGroup  uint32
}

func openExt4(name string) (*ext4, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	super := make([]byte, 1024)
	if _, err := file.ReadAt(super, 1024); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	if u16(super, 0x38) != 0xef53 {
		return nil, errors.Join(errors.New("it is no ext4 file system"), file.Close())
	}
	return &ext4{file: file, blockSize: 1024 << u32(super, 0x18), inodeSize: int64(u16(super, 0x58)), perGroup: u32(super, 0x28)}, nil
}

func u16(b []byte, at int) uint16 { return binary.LittleEndian.Uint16(b[at:]) }
func u32(b []byte, at int) uint32 { return binary.LittleEndian.Uint32(b[at:]) }

// tree returns all files by their paths, the root as ".".
func (e *ext4) tree() (map[string]node, error) {
	const rootInode = 2
	nodes := map[string]node{}
	return nodes, e.walk(".", rootInode, nodes)
}

func (e *ext4) walk(name string, number uint32, nodes map[string]node) error {
	inode, err := e.inode(number)
	if err != nil {
		return err
	}
	n := node{
		Mode: uint32(u16(inode, 0)), UID: uint32(u16(inode, 0x02)) | uint32(u16(inode, 0x78))<<16, GID: uint32(u16(inode, 0x18)) | uint32(u16(inode, 0x7a))<<16,
		Links: uint64(u16(inode, 0x1a)), inode: uint64(number), Xattrs: map[string]string{},
	}
	extra := u32(inode, 0x88)
	n.Mtime = fmt.Sprintf("%d.%09d", int64(int32(u32(inode, 0x10)))+int64(extra&3)<<32, extra>>2)
	if err := e.xattrs(inode, n.Xattrs); err != nil {
		return fmt.Errorf("%q: %w", name, err)
	}
	size := int64(u32(inode, 0x04)) | int64(u32(inode, 0x6c))<<32
	switch n.Mode & formatMask {
	case formatDir:
		n.Links = 0 // others count otherwise
		nodes[name] = n
		return e.children(name, inode, size, nodes)
	case formatFile:
		sum := sha256.New()
		if err := e.content(inode, size, sum); err != nil {
			return fmt.Errorf("%q: %w", name, err)
		}
		n.Content = fmt.Sprintf("%d %s", size, hex.EncodeToString(sum.Sum(nil)))
	case formatLink:
		var target strings.Builder
		if size < 60 {
			target.Write(inode[0x28 : 0x28+size])
		} else if err := e.content(inode, size, &target); err != nil {
			return err
		}
		n.Content = target.String()
	case formatChar, formatBlock:
		device := u32(inode, 0x2c)
		n.Content = fmt.Sprintf("%d:%d", device>>8&0xfff, device&0xff|device>>12&^0xff)
	}
	nodes[name] = n
	return nil
}

func (e *ext4) inode(number uint32) ([]byte, error) {
	group := (number - 1) / e.perGroup
	descriptor := make([]byte, 32)
	if _, err := e.file.ReadAt(descriptor, e.blockSize+int64(group)*32); err != nil {
		return nil, err
	}
	inode := make([]byte, e.inodeSize)
	_, err := e.file.ReadAt(inode, int64(u32(descriptor, 8))*e.blockSize+int64((number-1)%e.perGroup)*e.inodeSize)
	return inode, err
}

func (e *ext4) children(name string, inode []byte, size int64, nodes map[string]node) error {
	var b strings.Builder
	if err := e.content(inode, size, &b); err != nil {
		return fmt.Errorf("%q: %w", name, err)
	}
	for data := []byte(b.String()); len(data) >= 8; data = data[u16(data, 4):] {
		if number, child := u32(data, 0), string(data[8:8+int(data[6])]); number != 0 && child != "." && child != ".." {
			if err := e.walk(path.Join(name, child), number, nodes); err != nil {
				return err
			}
		}
	}
	return nil
}

// content writes what a file has, with zeros for its holes.
func (e *ext4) content(inode []byte, size int64, w io.Writer) error {
	if size == 0 {
		return nil
	}
	at := int64(0)
	hole := func(to int64) error {
		_, err := io.CopyN(w, zeros{}, max(to-at, 0))
		at = max(to, at)
		return err
	}
	err := e.extents(inode[0x28:0x28+60], func(block, length, place int64) error {
		if err := hole(block * e.blockSize); err != nil {
			return err
		}
		n := min(length*e.blockSize, size-at)
		at += n
		_, err := io.Copy(w, io.NewSectionReader(e.file, place*e.blockSize, n))
		return err
	})
	if err != nil {
		return err
	}
	return hole(size)
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

func (e *ext4) extents(list []byte, visit func(block, length, place int64) error) error {
	const magic, leaf = 0xf30a, 0
	if u16(list, 0) != magic {
		return errors.New("it has no extents")
	}
	for i := range int(u16(list, 2)) {
		entry := list[12+12*i:]
		var err error
		if u16(list, 6) == leaf {
			err = visit(int64(u32(entry, 0)), int64(u16(entry, 4)), int64(u32(entry, 8)))
		} else {
			lower := make([]byte, e.blockSize)
			if _, err := e.file.ReadAt(lower, int64(u32(entry, 4))*e.blockSize); err != nil {
				return err
			}
			err = e.extents(lower, visit)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// xattrs reads those in the inode and those in a block of their own.
func (e *ext4) xattrs(inode []byte, into map[string]string) error {
	const magic, inodeHead, blockHead = 0xea020000, 4, 32
	if own := inode[128+u16(inode, 0x80):]; len(own) > inodeHead && u32(own, 0) == magic {
		xattrEntries(own[inodeHead:], own[inodeHead:], into)
	}
	block := u32(inode, 0x68)
	if block == 0 {
		return nil
	}
	data := make([]byte, e.blockSize)
	if _, err := e.file.ReadAt(data, int64(block)*e.blockSize); err != nil {
		return err
	}
	if u32(data, 0) != magic {
		return errors.New("its block of extended attributes is none")
	}
	xattrEntries(data[blockHead:], data, into)
	return nil
}

func xattrEntries(entries, values []byte, into map[string]string) {
	prefixes := map[byte]string{1: "user.", 2: "system.posix_acl_access", 3: "system.posix_acl_default", 4: "trusted.", 6: "security."}
	for len(entries) >= 16 && u32(entries, 0) != 0 {
		name := prefixes[entries[1]] + string(entries[16:16+int(entries[0])])
		at := u16(entries, 2)
		into[name] = string(values[at : uint32(at)+u32(entries, 8)])
		entries = entries[(16+int(entries[0])+3)&^3:]
	}
}
