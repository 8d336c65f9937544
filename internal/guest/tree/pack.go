package tree

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"syscall"

	"banger/internal/guest/configure"
	"banger/internal/leftout"
)

// Pack writes a directory to a tar stream, with names below as. Links are
// packed as links. Sockets are left out, and so is what vanishes meanwhile.
func Pack(root *os.Root, as string, w io.Writer) error {
	p := packer{root: root, tar: tar.NewWriter(w), links: map[inode]string{}}
	info, err := root.Stat(".")
	if err != nil {
		return err
	}
	if err := p.add(".", as, info); err != nil {
		return err
	}
	return p.tar.Close()
}

// PackFile writes one open file to a tar stream, under the name as.
func PackFile(file *os.File, as string, w io.Writer) error {
	info, err := file.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("cannot pack %q: it is neither a file nor a directory", as)
	}
	h, err := header(info, as, "")
	if err != nil {
		return err
	}
	p := packer{tar: tar.NewWriter(w)}
	if err := p.content(file, h); err != nil {
		return err
	}
	return p.tar.Close()
}

func header(info fs.FileInfo, as, target string) (*tar.Header, error) {
	h, err := tar.FileInfoHeader(info, target)
	if err != nil {
		return nil, fmt.Errorf("cannot pack %q: %w", as, err)
	}
	h.Name = as
	if info.IsDir() {
		h.Name += "/"
	}
	// The names are this system's, the numbers are what counts.
	h.Uname, h.Gname = "", ""
	h.Format = tar.FormatPAX
	return h, nil
}

type inode struct{ device, number uint64 }

type packer struct {
	root  *os.Root
	tar   *tar.Writer
	links map[inode]string // where a file with several names was packed

	// system is for [PackSystem]: of directories on other devices than these
	// only the names are packed. path leads to the root.
	system  bool
	path    string
	devices map[uint64]bool
	host    configure.HostCertificates
}

func (p *packer) add(name, as string, info fs.FileInfo) error {
	if info.Mode()&fs.ModeSocket != 0 {
		return nil
	}
	target := ""
	if info.Mode()&fs.ModeSymlink != 0 {
		var err error
		if target, err = p.root.Readlink(name); err != nil {
			return vanished(err)
		}
	}
	if p.system && p.own(name, target) {
		return nil
	}
	h, err := header(info, as, target)
	if err != nil {
		return err
	}
	if p.system && target == "" {
		if err := p.xattrs(name, h); err != nil {
			return vanished(err)
		}
	}
	if info.IsDir() {
		if err := p.tar.WriteHeader(h); err != nil {
			return err
		}
		if p.system && (leftout.Emptied(name) || !p.devices[device(info)]) {
			return nil
		}
		return p.dir(name, as)
	}
	if p.system && name == leftout.MachineID {
		h.Size = 0
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok && stat.Nlink > 1 {
		id := inode{stat.Dev, stat.Ino}
		if first, ok := p.links[id]; ok {
			h.Typeflag, h.Linkname, h.Size = tar.TypeLink, first, 0
			return p.tar.WriteHeader(h)
		}
		// Only what is in the archive can be linked to: an error is the end of
		// it, but for a file that has vanished.
		err := p.entry(name, h, info)
		if err == nil {
			p.links[id] = as
		}
		return err
	}
	return p.entry(name, h, info)
}

// entry writes what is no directory.
func (p *packer) entry(name string, h *tar.Header, info fs.FileInfo) error {
	if !info.Mode().IsRegular() {
		return p.tar.WriteHeader(h)
	}
	return p.file(name, h)
}

func (p *packer) dir(name, as string) error {
	dir, err := p.root.Open(name)
	if err != nil {
		return vanished(err)
	}
	entries, err := dir.ReadDir(-1)
	dir.Close()
	if err != nil {
		return err
	}
	for _, e := range entries {
		child := path.Join(name, e.Name())
		info, err := p.root.Lstat(child)
		if err == nil {
			err = p.add(child, path.Join(as, e.Name()), info)
		}
		if err := vanished(err); err != nil {
			return err
		}
	}
	return nil
}

func (p *packer) file(name string, h *tar.Header) error {
	file, err := p.root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	if p.system && h.Size <= configure.MaxFile {
		if rest := p.rest(name); rest != nil {
			return p.changed(file, h, rest)
		}
	}
	return p.content(file, h)
}

// content packs as many bytes as the header says, whatever happens to the file:
// of a system, zeros for what is not there any more.
func (p *packer) content(file io.Reader, h *tar.Header) error {
	if err := p.tar.WriteHeader(h); err != nil {
		return err
	}
	n, err := io.Copy(p.tar, io.LimitReader(file, h.Size))
	if err != nil {
		return fmt.Errorf("cannot pack %q: %w", h.Name, err)
	}
	if n == h.Size {
		return nil
	}
	if !p.system {
		return fmt.Errorf("cannot pack %q: it was truncated meanwhile", h.Name)
	}
	// A system that runs has files that are emptied at any time, such as logs.
	_, err = io.CopyN(p.tar, zeros{}, h.Size-n)
	return err
}

// zeros is what is read where a file has become shorter.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// vanished takes the error of a file that is not there any more for none.
func vanished(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
