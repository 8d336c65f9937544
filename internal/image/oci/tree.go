package oci

import (
	"archive/tar"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// inode is a file, a directory or whatever else; several names may mean it. An
// image has hundreds of thousands: what few have is in extra.
type inode struct {
	typ         byte // tar.TypeReg, ...
	mode        uint16
	nsec        int32
	uid, gid    uint32
	entry       int32 // in the layer's archive, of a file's content
	size, mtime int64
	extra       *extra  // or nil
	first       *dentry // set when the tree is complete: the name it is written under
}

// extra is never changed: inodes share it.
type extra struct {
	target       string // of a symbolic link
	major, minor uint32 // of a device
	xattrs       []xattr
}

type xattr struct{ name, value string }

// more is the inode's extra.
func (i *inode) more() extra {
	if i.extra == nil {
		return extra{}
	}
	return *i.extra
}

// dentry is a name in a directory.
type dentry struct {
	name     string
	parent   *dentry // its own for the root
	ino      *inode
	children *children // of a directory
	layer    int32     // which has put it there
	length   int32     // of its path, in bytes
}

func (d *dentry) isDir() bool { return d.ino.typ == tar.TypeDir }

// path is the name in the image, without a slash at its begin.
func (d *dentry) path() string {
	var parts []string
	for ; d.parent != d; d = d.parent {
		parts = append(parts, d.name)
	}
	var b strings.Builder
	for i, part := range slices.Backward(parts) {
		b.WriteString(part)
		if i > 0 {
			b.WriteByte('/')
		}
	}
	return b.String()
}

// tree is what layers, applied in their order, make. It exists in memory only:
// names lead to other places of the tree at worst.
type tree struct {
	root   *dentry
	nodes  int // ever made
	memory int // that was ever taken, in bytes
	steps  int
	// wanted are, for each layer, the files with content that it has, in
	// order; some are replaced later.
	wanted  [][]*inode
	pending []pendingLink
	attrs   map[string]*extra // those of xattrs alone
}

// pendingLink is a hard link whose target has not come yet.
type pendingLink struct {
	name, target string
	mtime        int64
}

func newTree() *tree {
	root := &dentry{ino: &inode{typ: tar.TypeDir, mode: 0o755}, children: newChildren(), layer: -1}
	root.parent = root
	return &tree{root: root, attrs: map[string]*extra{}}
}

// split takes a name of an archive apart. Names are relative to the image's
// root whether they begin with a slash or not.
func split(name string) ([]string, error) {
	if len(name) > maxPath {
		return nil, fmt.Errorf("a name has %d bytes and begins with %.40q", len(name), name)
	}
	var parts []string
	for part := range strings.SplitSeq(name, "/") {
		switch {
		case part == "", part == ".":
		case part == "..":
			return nil, fmt.Errorf("the name %q leads out of the image", name)
		case len(part) > maxName:
			return nil, fmt.Errorf("a part of the name %.40q... has %d bytes", part, len(part))
		case strings.IndexByte(part, 0) >= 0:
			return nil, fmt.Errorf("the name %q has a NUL byte", name)
		default:
			parts = append(parts, part)
		}
	}
	return parts, nil
}

// errMissing says that a place is not there.
var errMissing = errors.New("it is not there")

// find returns the directory that the names lead to. Links are followed as in
// the running image: they never lead out of the root. With create, missing
// directories are made.
func (t *tree) find(names []string, layer int32, mtime int64, create bool) (*dentry, error) {
	at := t.root
	links := 0
	rest := names
	for len(rest) > 0 {
		if t.steps++; t.steps > maxSteps {
			return nil, tooLarge("its names lead through too many links")
		}
		name := rest[0]
		rest = rest[1:]
		switch name {
		case "", ".":
			continue
		case "..":
			at = at.parent
			continue
		}
		child := at.children.get(name)
		switch {
		case child == nil && !create:
			return nil, errMissing
		case child == nil:
			if len(name) > maxName {
				return nil, fmt.Errorf("a link leads to a name of %d bytes", len(name))
			}
			var err error
			if child, err = t.put(at, name, &inode{typ: tar.TypeDir, mode: 0o755, mtime: mtime}, layer); err != nil {
				return nil, err
			}
			at = child
		case child.isDir():
			at = child
		case child.ino.typ == tar.TypeSymlink:
			if links++; links > maxLinks {
				return nil, fmt.Errorf("%q leads through too many links", strings.Join(names, "/"))
			}
			to := child.ino.more().target
			if strings.HasPrefix(to, "/") {
				at = t.root
			}
			target := strings.Split(to, "/")
			rest = append(slices.Clip(target), rest...)
		default:
			return nil, fmt.Errorf("%q is below %q, which is not a directory", strings.Join(names, "/"), child.path())
		}
	}
	return at, nil
}

// lookup returns the name itself, without following a link in its last part.
func (t *tree) lookup(names []string, layer int32) (*dentry, error) {
	if len(names) == 0 {
		return t.root, nil
	}
	dir, err := t.find(names[:len(names)-1], layer, 0, false)
	if err != nil {
		return nil, err
	}
	if found := dir.children.get(names[len(names)-1]); found != nil {
		return found, nil
	}
	return nil, errMissing
}

// put gives the inode a name, in place of what has it: a directory stays with
// what is in it if it is replaced by one.
func (t *tree) put(dir *dentry, name string, ino *inode, layer int32) (*dentry, error) {
	if old := dir.children.get(name); old != nil && old.isDir() && ino.typ == tar.TypeDir {
		old.ino, old.layer = ino, layer
		return old, nil
	}
	if t.nodes++; t.nodes > maxNodes {
		return nil, tooLarge("it has more than %d files", maxNodes)
	}
	// Names that lead through links are short, and what they make can be deep.
	length := len(name)
	if dir != t.root {
		length += int(dir.length) + 1
	}
	if length > maxPath {
		return nil, fmt.Errorf("the path of %q has %d bytes in the image, and begins with %.40q", name, length, dir.path())
	}
	cost := costFile
	if ino.typ == tar.TypeDir {
		cost = costDir
	}
	if err := t.take(cost + costName*len(name)); err != nil {
		return nil, err
	}
	made := &dentry{name: strings.Clone(name), parent: dir, ino: ino, layer: layer, length: int32(length)}
	if ino.typ == tar.TypeDir {
		made.children = newChildren()
	}
	dir.children.put(made)
	return made, nil
}

// take counts memory.
func (t *tree) take(bytes int) error {
	if t.memory += bytes; t.memory > maxMemory {
		return tooLarge("its files are so many, or have names so long, that they take more than %d MiB of memory", maxMemory>>20)
	}
	return nil
}

// makeDir makes a directory, with its parents, when all layers are there.
func (t *tree) makeDir(name string) error {
	names, err := split(name)
	if err != nil {
		return err
	}
	const none = -1 // of the layers
	_, err = t.find(names, none, t.root.ino.mtime, true)
	return err
}

// prune removes what other layers than this one have put at and below d, and
// reports whether something is left.
func prune(d *dentry, layer int32) bool {
	if !d.isDir() {
		return d.layer == layer
	}
	d.children.prune(layer)
	return d.layer == layer || len(d.children.list) > 0
}

// remove is a whiteout: the name goes, but for what the layer itself has there.
func remove(d *dentry, layer int32) {
	if !prune(d, layer) {
		d.parent.children.remove(d.name)
	}
}
