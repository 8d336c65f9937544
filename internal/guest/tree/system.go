package tree

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"banger/internal/guest/configure"
)

// PackSystem writes the root file system of a guest to a tar stream, with
// extended attributes: what an image of it is made of. Of other file systems
// that are mounted in it, it has what is below home, and the directories of
// the rest without what is in them. What is a machine's own and not to be had
// twice is left out.
func PackSystem(root *os.Root, home string, w io.Writer) error {
	info, err := root.Stat(".")
	if err != nil {
		return err
	}
	top, err := root.Open(".")
	if err != nil {
		return err
	}
	defer top.Close()
	p := packer{root: root, path: "/proc/self/fd/" + strconv.Itoa(int(top.Fd())), tar: tar.NewWriter(w), links: map[inode]string{}, system: true, devices: map[uint64]bool{device(info): true}}
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

// own tells what of a system is one machine's: names are relative to its root.
func own(name string) bool {
	if slices.Contains(configure.Inherited(), name) {
		return true
	}
	switch name {
	case "root/.ssh/authorized_keys", "var/lib/systemd/random-seed", "var/lib/dbus/machine-id":
		return true
	}
	matched, err := path.Match("etc/ssh/ssh_host_*", name)
	return matched && err == nil
}

// maxEnvironment bounds what is read of the file with the environment, in
// bytes: a longer one is none that banger has written to.
const maxEnvironment = 1 << 20

// environment packs the file with the environment without what the host has
// passed on to this VM.
func (p *packer) environment(file io.Reader, h *tar.Header) error {
	content, err := io.ReadAll(io.LimitReader(file, h.Size))
	if err != nil {
		return fmt.Errorf("cannot pack %q: %w", h.Name, err)
	}
	content = configure.WithoutInherited(content)
	h.Size = int64(len(content))
	return p.content(bytes.NewReader(content), h)
}

// emptied tells which directories are there without what is in them.
func emptied(name string) bool { return name == "tmp" || name == "run" }

// machineID is an empty file in images: systemd, and banger, fill it.
const machineID = "etc/machine-id"

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
