package tree

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"banger/internal/guest/configure"
	"banger/internal/leftout"
)

// PackSystem writes the root file system of a guest to a tar stream, with
// extended attributes: what an image of it is made of. Of other file systems
// that are mounted in it, it has what is below home, and the directories of
// the rest without what is in them. What is a machine's own and not to be had
// twice is left out, and so are the host's certificates that are in it.
func PackSystem(root *os.Root, home string, host configure.HostCertificates, w io.Writer) error {
	info, err := root.Stat(".")
	if err != nil {
		return err
	}
	top, err := root.Open(".")
	if err != nil {
		return err
	}
	defer top.Close()
	p := packer{root: root, path: "/proc/self/fd/" + strconv.Itoa(int(top.Fd())), tar: tar.NewWriter(w), links: map[inode]string{}, system: true, host: host, devices: map[uint64]bool{device(info): true}}
	if info, err := root.Stat(home); err == nil {
		p.devices[device(info)] = true
	}
	if err := p.add(".", ".", info); err != nil {
		return err
	}
	return p.tar.Close()
}

func device(info fs.FileInfo) uint64 {
	return info.Sys().(*syscall.Stat_t).Dev //nolint:forcetypeassert // on Linux
}

// own tells what of a system is one machine's: names are relative to its root,
// and target is where a link leads.
func (p *packer) own(name, target string) bool {
	return leftout.File(name) || p.host.Own(name, target)
}

// rest returns what takes out of a file's content what the host has passed on
// to this VM, nil for a file that has no such thing.
func (p *packer) rest(name string) func(content []byte) []byte {
	switch name {
	case configure.EnvironmentFile:
		return configure.WithoutInherited
	case p.host.Bundle():
		return p.host.Without
	}
	return nil
}

// changed packs a file of a size that banger writes with another content.
func (p *packer) changed(file io.Reader, h *tar.Header, change func([]byte) []byte) error {
	content, err := io.ReadAll(io.LimitReader(file, h.Size))
	if err != nil {
		return fmt.Errorf("cannot pack %q: %w", h.Name, err)
	}
	content = change(content)
	h.Size = int64(len(content))
	return p.content(bytes.NewReader(content), h)
}

// xattrRecord is what attributes' names begin with in tar streams.
const xattrRecord = "SCHILY.xattr."

// maxXattrs bounds an entry's extended attributes: what ext4 keeps beside an
// inode is less.
const maxXattrs = 64 << 10

// xattrs adds an entry's extended attributes to its header. Those of symbolic
// links, which next to nothing has, are left out.
func (p *packer) xattrs(name string, h *tar.Header) error {
	file := filepath.Join(p.path, name)
	names := make([]byte, maxXattrs)
	n, err := unix.Llistxattr(file, names)
	if errors.Is(err, unix.ENOTSUP) {
		return nil
	}
	if err != nil {
		return &fs.PathError{Op: "list the attributes of", Path: name, Err: err}
	}
	for attribute := range strings.SplitSeq(string(names[:n]), "\x00") {
		if attribute == "" {
			continue
		}
		value := make([]byte, maxXattrs)
		n, err := unix.Lgetxattr(file, attribute, value)
		if errors.Is(err, unix.ENODATA) { // gone meanwhile
			continue
		}
		if err != nil {
			return &fs.PathError{Op: "read the attribute " + attribute + " of", Path: name, Err: err}
		}
		if h.PAXRecords == nil {
			h.PAXRecords = map[string]string{}
		}
		h.PAXRecords[xattrRecord+attribute] = string(value[:n])
	}
	return nil
}
