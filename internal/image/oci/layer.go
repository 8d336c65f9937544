package oci

import (
	"archive/tar"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
)

const (
	whiteout     = ".wh."
	whiteoutMeta = ".wh..wh."
	whiteoutDir  = ".wh..wh..opq" // "opaque": lower layers have nothing here
	xattrRecord  = "SCHILY.xattr."
)

// add applies the next entry of a layer's archive, the index of which in it is
// entry. With whiteouts, the names of OCI layers that mean removals do so.
func (t *tree) add(header *tar.Header, layer, entry int32, whiteouts bool) error {
	if header.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	names, err := split(header.Name)
	if err != nil {
		return err
	}
	if whiteouts && len(names) > 0 {
		done, err := t.whiteout(names, layer)
		if done || err != nil {
			return err
		}
	}
	if header.Typeflag == tar.TypeLink {
		return t.link(header, names, layer)
	}
	ino, err := t.inode(header, entry)
	if err != nil {
		return fmt.Errorf("%q: %w", header.Name, err)
	}
	if len(names) == 0 {
		if ino.typ != tar.TypeDir {
			return errors.New("the image's root is not a directory")
		}
		t.root.ino = ino
		return nil
	}
	last := len(names) - 1
	dir, err := t.find(names[:last], layer, ino.mtime, true)
	if err != nil {
		return err
	}
	if _, err := t.put(dir, names[last], ino, layer); err != nil {
		return err
	}
	if ino.typ == tar.TypeReg && ino.size > 0 {
		t.wanted[layer] = append(t.wanted[layer], ino)
	}
	return nil
}

// whiteout applies an entry that removes; done is false for any other.
func (t *tree) whiteout(names []string, layer int32) (done bool, err error) {
	if slices.ContainsFunc(names[:len(names)-1], func(s string) bool { return strings.HasPrefix(s, whiteoutMeta) }) {
		return true, nil // what old builders kept for themselves
	}
	base := names[len(names)-1]
	if !strings.HasPrefix(base, whiteout) {
		return false, nil
	}
	if strings.HasPrefix(base, whiteoutMeta) && base != whiteoutDir {
		return true, nil
	}
	dir, err := t.find(names[:len(names)-1], layer, 0, false)
	if errors.Is(err, errMissing) {
		return true, nil
	}
	if err != nil {
		return true, err
	}
	if base == whiteoutDir {
		dir.children.prune(layer)
		return true, nil
	}
	victim := strings.TrimPrefix(base, whiteout)
	switch victim {
	case "", ".", "..":
		return true, fmt.Errorf("%q removes nothing that can be", strings.Join(names, "/"))
	}
	if child := dir.children.get(victim); child != nil {
		remove(child, layer)
	}
	return true, nil
}

// link applies a hard link; one to what is not there waits for the layer's end.
func (t *tree) link(header *tar.Header, names []string, layer int32) error {
	target, err := split(header.Linkname)
	if err != nil {
		return fmt.Errorf("%q links to what cannot be: %w", header.Name, err)
	}
	if len(names) == 0 || len(target) == 0 {
		return fmt.Errorf("%q cannot be a hard link to %q", header.Name, header.Linkname)
	}
	err = t.tryLink(names, target, header.ModTime.Unix(), layer)
	if !errors.Is(err, errMissing) {
		return err
	}
	if t.nodes++; t.nodes > maxNodes {
		return tooLarge("it has more than %d files", maxNodes)
	}
	if err := t.take(costLink + len(header.Name) + len(header.Linkname)); err != nil {
		return err
	}
	t.pending = append(t.pending, pendingLink{strings.Clone(header.Name), strings.Clone(header.Linkname), header.ModTime.Unix()})
	return nil
}

func (t *tree) tryLink(names, target []string, mtime int64, layer int32) error {
	found, err := t.lookup(target, layer)
	if err != nil {
		return err
	}
	if found.isDir() {
		return fmt.Errorf("%q is a hard link to the directory %q", strings.Join(names, "/"), strings.Join(target, "/"))
	}
	last := len(names) - 1
	dir, err := t.find(names[:last], layer, mtime, true)
	if err != nil {
		return err
	}
	if dir.children.get(names[last]) == found {
		found.layer = layer
		return nil
	}
	_, err = t.put(dir, names[last], found.ino, layer)
	return err
}

// maxRounds bounds chains of links that come in the wrong order.
const maxRounds = 64

// endLayer makes the links whose targets came after them.
func (t *tree) endLayer(layer int32) error {
	for range maxRounds {
		var left []pendingLink
		for _, p := range t.pending {
			name, err := split(p.name)
			if err != nil {
				return err
			}
			target, err := split(p.target)
			if err != nil {
				return err
			}
			// What the layer has put there since then is later, and stays.
			if there, err := t.lookup(name, layer); err == nil && there.layer == layer {
				continue
			}
			err = t.tryLink(name, target, p.mtime, layer)
			if errors.Is(err, errMissing) {
				left = append(left, p)
			} else if err != nil {
				return err
			}
		}
		progress := len(left) < len(t.pending)
		t.pending = left
		if len(left) == 0 {
			return nil
		}
		if !progress {
			break
		}
	}
	p := t.pending[0]
	return fmt.Errorf("%q is a hard link to %q, which is not there", p.name, p.target)
}

// inode is what a header says.
func (t *tree) inode(header *tar.Header, entry int32) (*inode, error) {
	ino := &inode{
		typ: header.Typeflag, mode: uint16(header.Mode & 0o7777), entry: entry,
		mtime: max(header.ModTime.Unix(), math.MinInt32), nsec: int32(header.ModTime.Nanosecond()),
	}
	if header.Uid < 0 || header.Gid < 0 || header.Uid > math.MaxUint32-1 || header.Gid > math.MaxUint32-1 {
		return nil, fmt.Errorf("it cannot belong to %d:%d", header.Uid, header.Gid)
	}
	ino.uid, ino.gid = uint32(header.Uid), uint32(header.Gid)
	var own extra
	switch header.Typeflag {
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse:
		ino.typ = tar.TypeReg
		ino.size = header.Size
		if ino.size < 0 || ino.size > MaxSize {
			return nil, tooLarge("a file has %d bytes", ino.size)
		}
	case tar.TypeDir, tar.TypeFifo:
	case tar.TypeSymlink:
		if n := len(header.Linkname); n == 0 || n >= maxPath || strings.IndexByte(header.Linkname, 0) >= 0 {
			return nil, fmt.Errorf("it cannot be a link to a name of %d bytes", n)
		}
		ino.mode = 0o777
		own.target = strings.Clone(header.Linkname)
	case tar.TypeChar, tar.TypeBlock:
		const maxMajor, maxMinor = 1<<12 - 1, 1<<20 - 1
		if header.Devmajor < 0 || header.Devminor < 0 || header.Devmajor > maxMajor || header.Devminor > maxMinor {
			return nil, fmt.Errorf("it cannot be the device %d:%d", header.Devmajor, header.Devminor)
		}
		own.major, own.minor = uint32(header.Devmajor), uint32(header.Devminor)
	default:
		return nil, fmt.Errorf("its type %q is not known", header.Typeflag)
	}
	var err error
	if ino.extra, err = t.xattrs(header.PAXRecords); err != nil {
		return nil, err
	}
	if own.target == "" && own.major == 0 && own.minor == 0 {
		return ino, nil
	}
	own.xattrs = ino.more().xattrs
	ino.extra = &own
	return ino, t.take(costLink + len(own.target))
}

// keptXattr tells which attributes an image keeps: those that mean something
// in any guest. Those of overlayfs would change what the guest's own does.
func keptXattr(name string) bool {
	switch {
	case strings.HasPrefix(name, "trusted.overlay."):
		return false
	case name == "system.posix_acl_access", name == "system.posix_acl_default":
		return true
	}
	return strings.HasPrefix(name, "security.") || strings.HasPrefix(name, "user.") || strings.HasPrefix(name, "trusted.")
}

// xattrs returns the extended attributes in a header, sorted by name, or nil.
// Files with the same ones share them.
func (t *tree) xattrs(records map[string]string) (*extra, error) {
	var list []xattr
	size := 0
	for key, value := range records {
		name, ok := strings.CutPrefix(key, xattrRecord)
		if !ok || !keptXattr(name) {
			continue
		}
		if len(name) > maxName {
			return nil, fmt.Errorf("the name of an extended attribute has %d bytes", len(name))
		}
		// Each also takes a header of its own and is padded.
		size += len(name) + len(value) + 22
		list = append(list, xattr{name, value})
	}
	if list == nil {
		return nil, nil
	}
	if size > maxXattrs {
		return nil, fmt.Errorf("its extended attributes have %d bytes, and %d fit", size, maxXattrs)
	}
	slices.SortFunc(list, func(a, b xattr) int { return strings.Compare(a.name, b.name) })
	var key strings.Builder
	for _, x := range list {
		fmt.Fprintf(&key, "%d %s%d %s", len(x.name), x.name, len(x.value), x.value)
	}
	if shared, ok := t.attrs[key.String()]; ok {
		return shared, nil
	}
	if err := t.take(costXattr + size + key.Len()); err != nil {
		return nil, err
	}
	for i, x := range list {
		list[i] = xattr{strings.Clone(x.name), strings.Clone(x.value)}
	}
	made := &extra{xattrs: list}
	t.attrs[key.String()] = made
	return made, nil
}
