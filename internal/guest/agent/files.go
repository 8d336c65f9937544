package agent

import (
	"bufio"
	"fmt"
	"net/http"
	"os"
	"path"
	"syscall"

	"golang.org/x/sys/unix"

	"banger/internal/guest/configure"
	"banger/internal/guest/tree"
)

func (s *Server) upload(w http.ResponseWriter, r *http.Request) error {
	root, err := s.root()
	if err != nil {
		return err
	}
	target := r.URL.Query().Get("path")
	if !path.IsAbs(target) {
		return badRequest("cannot write to %q: the path is not absolute", target)
	}
	made, err := root.MkdirAll(target, 0o755)
	if err != nil {
		return fmt.Errorf("cannot write to %q: %w", target, err)
	}
	made.Close()
	dir, err := root.Root(target)
	if err != nil {
		return fmt.Errorf("cannot write to %q: %w", target, err)
	}
	defer dir.Close()
	if err := tree.Unpack(dir, r.Body, os.Geteuid() == 0); err != nil {
		return fmt.Errorf("cannot write to %q: %w", target, err)
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *Server) download(w http.ResponseWriter, r *http.Request) error {
	root, err := s.root()
	if err != nil {
		return err
	}
	source := r.URL.Query().Get("path")
	if !path.IsAbs(source) {
		return badRequest("cannot read %q: the path is not absolute", source)
	}
	source = path.Clean(source)
	file, err := root.OpenFile(source, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("cannot read %q: %w", source, err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return fmt.Errorf("cannot read %q: %w", source, err)
	}
	as := path.Base(source)
	if as == "/" {
		as = "."
	}
	// Each write is a chunk of the answer.
	out := bufio.NewWriterSize(w, downloadBuffer)
	w.Header().Set("Content-Type", "application/x-tar")
	if !info.IsDir() {
		if !info.Mode().IsRegular() {
			return badRequest("cannot read %q: it is neither a file nor a directory", source)
		}
		err = tree.PackFile(file, as, out)
	} else {
		var dir *os.Root
		if dir, err = root.Root(source); err != nil {
			return fmt.Errorf("cannot read %q: %w", source, err)
		}
		defer dir.Close()
		err = tree.Pack(dir, as, out)
	}
	if err == nil {
		err = out.Flush()
	}
	if err != nil {
		return broken{err}
	}
	return nil
}

// system answers with all that an image of this guest is made of.
func (s *Server) system(w http.ResponseWriter, _ *http.Request) error {
	root, err := s.root()
	if err != nil {
		return err
	}
	dir, err := root.Root("/")
	if err != nil {
		return fmt.Errorf("cannot read the root file system: %w", err)
	}
	defer dir.Close()
	host, err := configure.FindHostCertificates(root)
	if err != nil {
		return err
	}
	unix.Sync()
	out := bufio.NewWriterSize(w, downloadBuffer)
	w.Header().Set("Content-Type", "application/x-tar")
	if err := tree.PackSystem(dir, "root", host, out); err != nil {
		return broken{err}
	}
	if err := out.Flush(); err != nil {
		return broken{err}
	}
	return nil
}

const downloadBuffer = 256 << 10
