// Package filesync makes the copies of host files that a new VM gets, as the
// user's configuration asks for in file_sync: a tar stream to be unpacked in
// the guest's /root.
package filesync

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"
	"time"

	"banger/internal/config"
	"banger/internal/size"
)

// Limits of one VM's copies. They keep a path that was named by mistake from
// filling the guest's disk; the VM then does not start.
const (
	MaxFiles = 100_000
	MaxBytes = 4 << 30
	maxDepth = 64
	maxWarns = 20
)

// Write writes what entries name to w as a tar stream with names relative to
// /root, all of it root's. What cannot be copied is left out, and told to warn
// in a sentence that is safe to print: a host path that is not there, a link
// inside a directory, what is no file, what may not be read. Links inside a
// directory are never followed. The error is one of w, of ctx, or a limit.
func Write(ctx context.Context, entries []config.FileSync, w io.Writer, warn func(string)) error {
	p := packer{ctx: ctx, tar: tar.NewWriter(w), warn: warn}
	for _, entry := range entries {
		if err := p.entry(entry); err != nil {
			return fmt.Errorf("cannot copy %q: %w", entry.Host, err)
		}
	}
	if more := p.warned - maxWarns; more > 0 {
		warn(fmt.Sprintf("file_sync: %d more of these", more))
	}
	return p.tar.Close()
}

type packer struct {
	ctx    context.Context
	tar    *tar.Writer
	warn   func(string)
	warned int
	files  int
	bytes  int64
}

// skip tells that a path is left out.
func (p *packer) skip(path, why string) {
	if p.warned++; p.warned <= maxWarns {
		p.warn(fmt.Sprintf("file_sync: %q is not copied: %s", path, why))
	}
}

// skipError tells that a path is left out because of what the host says.
func (p *packer) skipError(path string, err error) {
	if cause, ok := errors.AsType[*fs.PathError](err); ok {
		err = cause.Err // the path is said already
	}
	p.skip(path, err.Error())
}

// entry packs one entry. Its host path is the user's own words, so links on
// the way to it are followed.
func (p *packer) entry(entry config.FileSync) error {
	// Not blocking: it may be a pipe without a writer.
	file, err := os.OpenFile(entry.Host, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		p.skipError(entry.Host, err)
		return nil
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	as := strings.TrimPrefix(entry.Guest, config.GuestHome+"/")
	if !info.IsDir() {
		return p.file(file, info, entry.Host, as, entry.Mode)
	}
	root, err := os.OpenRoot(entry.Host)
	if err != nil {
		p.skipError(entry.Host, err)
		return nil
	}
	defer root.Close()
	return p.dir(root, entry.Host, as, info, 0)
}

// dir packs a directory, host for the user, with names below as.
func (p *packer) dir(root *os.Root, host, as string, info fs.FileInfo, depth int) error {
	if depth > maxDepth {
		return fmt.Errorf("%q is more than %d directories deep", host, maxDepth)
	}
	mode := info.Mode().Perm()
	if as == ".ssh" {
		mode = 0o700 // sshd's StrictModes
	}
	if err := p.header(tar.TypeDir, as+"/", mode, info.ModTime(), 0); err != nil {
		return err
	}
	dir, err := root.Open(".")
	if err != nil {
		p.skipError(host, err)
		return nil
	}
	defer dir.Close()
	for {
		entries, err := dir.ReadDir(256)
		for _, e := range entries {
			if err := p.child(root, path.Join(host, e.Name()), path.Join(as, e.Name()), e.Name(), depth); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			p.skipError(host, err)
			return nil
		}
	}
}

// child packs what has a name in the directory root.
func (p *packer) child(root *os.Root, host, as, name string, depth int) error {
	info, err := root.Lstat(name)
	switch {
	case err != nil:
		p.skipError(host, err)
		return nil
	case info.Mode()&fs.ModeSymlink != 0:
		p.skip(host, "it is a symbolic link")
		return nil
	case path.Join(config.GuestHome, as) == config.AuthorizedKeys:
		p.skip(host, "in a guest this file is banger's")
		return nil
	case info.IsDir():
		below, err := root.OpenRoot(name)
		if err != nil {
			p.skipError(host, err)
			return nil
		}
		defer below.Close()
		return p.dir(below, host, as, info, depth+1)
	}
	file, err := root.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		p.skipError(host, err)
		return nil
	}
	defer file.Close()
	if info, err = file.Stat(); err != nil {
		return err
	}
	return p.file(file, info, host, as, info.Mode().Perm())
}

// file packs an open file. It gets as many bytes as it had when it was opened.
func (p *packer) file(file *os.File, info fs.FileInfo, host, as string, mode fs.FileMode) error {
	if !info.Mode().IsRegular() {
		p.skip(host, "it is neither a file nor a directory")
		return nil
	}
	if p.bytes += info.Size(); p.bytes > MaxBytes {
		return fmt.Errorf("file_sync names more than %s", size.Human(MaxBytes))
	}
	if err := p.header(tar.TypeReg, as, mode, info.ModTime(), info.Size()); err != nil {
		return err
	}
	n, err := io.Copy(p.tar, io.LimitReader(file, info.Size()))
	if err == nil && n < info.Size() {
		err = fmt.Errorf("%q was truncated meanwhile", host)
	}
	return err
}

func (p *packer) header(kind byte, as string, mode fs.FileMode, modified time.Time, bytes int64) error {
	if p.ctx.Err() != nil {
		return context.Cause(p.ctx)
	}
	if p.files++; p.files > MaxFiles {
		return fmt.Errorf("file_sync names more than %d files", MaxFiles)
	}
	return p.tar.WriteHeader(&tar.Header{Typeflag: kind, Name: as, Mode: int64(mode), ModTime: modified, Size: bytes, Format: tar.FormatPAX})
}
