package oci

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
)

// files is what holds the parts of an image on disk: a directory or an
// archive. Names are slash-separated and relative.
type files interface {
	// open opens a part; [fs.ErrNotExist] without it.
	open(name string) (io.ReadCloser, int64, error)
	Close() error
}

func readPart(f files, name string, limit int64) ([]byte, error) {
	part, size, err := f.open(name)
	if err != nil {
		return nil, err
	}
	defer part.Close()
	if size > limit {
		return nil, tooLarge("%q in it has %d bytes", name, size)
	}
	return io.ReadAll(io.LimitReader(part, limit))
}

// directory is an OCI layout; nothing leads out of it.
type directory struct{ *os.Root }

func (d directory) open(name string) (io.ReadCloser, int64, error) {
	info, err := d.Stat(name)
	if err != nil {
		return nil, 0, err
	}
	if !info.Mode().IsRegular() { // before it is opened: a FIFO would block
		return nil, 0, fmt.Errorf("%q is not a file", name)
	}
	file, err := d.Open(name)
	if err != nil {
		return nil, 0, err
	}
	return file, info.Size(), nil
}

// archive is a tar file that is not compressed, with where its members are.
type archive struct {
	file    *os.File
	members map[string]member
}

type member struct {
	offset, size int64
	link         string // to another member
}

// maxMembers bounds the members of an archive that is searched for an image;
// one with more is a file system.
const maxMembers = 10_000

// readMembers finds the members of an archive, up to the first with a name that
// no part of an image has, and not more than maxMembers.
func readMembers(file *os.File) (*archive, error) {
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	a := &archive{file: file, members: map[string]member{}}
	tr := tar.NewReader(file)
	for {
		header, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return a, nil
		}
		if err != nil {
			return nil, fmt.Errorf("cannot read the archive: %w", err)
		}
		if len(a.members) >= maxMembers || len(header.Name) > maxPath || len(header.Linkname) > maxPath {
			return a, nil
		}
		offset, err := file.Seek(0, io.SeekCurrent)
		if err != nil {
			return nil, err
		}
		name := path.Clean("/" + header.Name)[1:]
		switch header.Typeflag {
		case tar.TypeReg:
			a.members[name] = member{offset: offset, size: header.Size}
		case tar.TypeSymlink:
			a.members[name] = member{link: path.Join("/", path.Dir(name), header.Linkname)[1:]}
		case tar.TypeLink:
			a.members[name] = member{link: path.Clean("/" + header.Linkname)[1:]}
		}
	}
}

func (a *archive) has(name string) bool { return a.members[name] != member{} }

func (a *archive) open(name string) (io.ReadCloser, int64, error) {
	const maxHops = 8
	at := path.Clean("/" + name)[1:]
	for range maxHops {
		m, ok := a.members[at]
		if !ok {
			return nil, 0, fmt.Errorf("the archive has no %q: %w", name, fs.ErrNotExist)
		}
		if m.link == "" {
			return io.NopCloser(io.NewSectionReader(a.file, m.offset, m.size)), m.size, nil
		}
		at = m.link
	}
	return nil, 0, fmt.Errorf("%q in the archive is a link that leads nowhere", name)
}

func (a *archive) Close() error { return a.file.Close() }

// blobPath is where a layout has what a digest names.
func blobPath(digest string) string { return "blobs/" + strings.Replace(digest, ":", "/", 1) }
