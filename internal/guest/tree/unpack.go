// Package tree moves file trees into and out of directories as tar streams.
// Nothing in a stream, and no link in a directory, leads out of the directory.
package tree

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Unpack writes a tar stream below root. Files replace what is in their place,
// directories are merged. With owners it gives files to whom the stream says,
// which needs privilege. Devices are refused; extended attributes are not
// carried.
func Unpack(root *os.Root, r io.Reader, owners bool) error {
	u := unpacker{root: root, owners: owners}
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("cannot read the tar stream: %w", err)
		}
		if err := u.entry(h, tr); err != nil {
			return fmt.Errorf("cannot unpack %q: %w", h.Name, err)
		}
	}
	// Directories last and from the deepest: what is written into them changes
	// their times, and a mode may forbid it.
	for _, dir := range slices.Backward(u.dirs) {
		if err := u.finish(dir); err != nil {
			return fmt.Errorf("cannot unpack %q: %w", dir.Name, err)
		}
	}
	// The sender may still have padding to get rid of.
	_, err := io.Copy(io.Discard, r)
	return err
}

type unpacker struct {
	root   *os.Root
	owners bool
	dirs   []*tar.Header
}

// clean makes a name of the stream relative: as if the directory were "/".
func clean(name string) string {
	name = strings.TrimPrefix(path.Clean("/"+name), "/")
	if name == "" {
		return "."
	}
	return name
}

func (u *unpacker) entry(h *tar.Header, content io.Reader) error {
	name := clean(h.Name)
	h.Name = name
	switch h.Typeflag {
	case tar.TypeXGlobalHeader:
		return nil
	case tar.TypeDir:
		if err := u.makeDir(name); err != nil {
			return err
		}
		u.dirs = append(u.dirs, h)
		return nil
	}
	if name == "." {
		return errors.New("only a directory can have this name")
	}
	if parent := path.Dir(name); parent != "." {
		if err := u.root.MkdirAll(parent, 0o755); err != nil {
			return err
		}
	}
	if info, err := u.root.Lstat(name); err == nil {
		if info.IsDir() {
			return errors.New("there is a directory in its place")
		}
		if err := u.root.Remove(name); err != nil {
			return err
		}
	}
	switch h.Typeflag {
	case tar.TypeReg:
		return u.file(h, content)
	case tar.TypeSymlink:
		if err := u.root.Symlink(h.Linkname, name); err != nil {
			return err
		}
		return u.chown(h)
	case tar.TypeLink:
		return u.root.Link(clean(h.Linkname), name)
	case tar.TypeFifo:
		return u.fifo(h)
	default:
		return fmt.Errorf("its type %q is not supported", h.Typeflag)
	}
}

// makeDir makes a directory, in place of what is not one. A link to a
// directory below the root stays, as tar has it.
func (u *unpacker) makeDir(name string) error {
	if name == "." {
		return nil
	}
	if info, err := u.root.Stat(name); err == nil && info.IsDir() {
		return nil
	}
	if info, err := u.root.Lstat(name); err == nil && !info.IsDir() {
		if err := u.root.Remove(name); err != nil {
			return err
		}
	}
	// Ours alone until finish.
	return u.root.MkdirAll(name, 0o700)
}

func (u *unpacker) file(h *tar.Header, content io.Reader) error {
	file, err := u.root.OpenFile(h.Name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if _, err := io.Copy(file, content); err != nil {
		file.Close()
		return err
	}
	if err := file.Close(); err != nil {
		return err
	}
	return u.finish(h)
}

func (u *unpacker) fifo(h *tar.Header) error {
	parent, err := u.root.Open(path.Dir(h.Name))
	if err != nil {
		return err
	}
	defer parent.Close()
	if err := unix.Mknodat(int(parent.Fd()), path.Base(h.Name), unix.S_IFIFO|0o600, 0); err != nil {
		return err
	}
	return u.finish(h)
}

func (u *unpacker) chown(h *tar.Header) error {
	if !u.owners {
		return nil
	}
	return u.root.Lchown(h.Name, h.Uid, h.Gid)
}

// finish sets owner, mode and times, in the order that keeps setuid bits.
func (u *unpacker) finish(h *tar.Header) error {
	if err := u.chown(h); err != nil {
		return err
	}
	mode := h.FileInfo().Mode() & (fs.ModePerm | fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky)
	if err := u.root.Chmod(h.Name, mode); err != nil {
		return err
	}
	if h.ModTime.IsZero() {
		return nil
	}
	return u.root.Chtimes(h.Name, h.ModTime, h.ModTime)
}
