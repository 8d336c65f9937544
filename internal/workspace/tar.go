package workspace

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// WriteTar sends the shipment as a tar stream below a directory of the
// repository's name, everything owned by root. Every file is opened below the
// repository's root, never through a symbolic link that leads out of it.
func (s *Shipment) WriteTar(ctx context.Context, w io.Writer) error {
	root, err := os.OpenRoot(s.Repo.Root)
	if err != nil {
		return fmt.Errorf("cannot open the repository: %w", err)
	}
	defer root.Close()
	t := tarWriter{w: tar.NewWriter(w), dirs: map[string]bool{}, top: s.Repo.Name}
	if err := t.dir(".", 0o755); err != nil {
		return err
	}
	if err := t.tree(ctx, s.dotGit, ".git"); err != nil {
		return err
	}
	for _, f := range s.List.Files {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err := t.parents(root, path.Dir(f.Path)); err != nil {
			return err
		}
		if err := t.file(root, f.Path, f.Path); err != nil {
			return err
		}
	}
	if err := t.w.Close(); err != nil {
		return fmt.Errorf("cannot send the workspace: %w", err)
	}
	return nil
}

type tarWriter struct {
	w    *tar.Writer
	top  string
	dirs map[string]bool
}

func (t *tarWriter) header(h *tar.Header, name string) error {
	h.Name = path.Join(t.top, name)
	if h.Typeflag == tar.TypeDir {
		h.Name += "/"
	}
	// Full seconds keep the headers small, and are all that git compares.
	h.ModTime = h.ModTime.Truncate(time.Second)
	if err := t.w.WriteHeader(h); err != nil {
		return fmt.Errorf("cannot send %q: %w", name, err)
	}
	return nil
}

func (t *tarWriter) dir(name string, mode fs.FileMode) error {
	t.dirs[name] = true
	return t.header(&tar.Header{Typeflag: tar.TypeDir, Mode: int64(mode.Perm()), ModTime: time.Now()}, name)
}

// parents sends the directories above a file that were not sent yet.
func (t *tarWriter) parents(root *os.Root, dir string) error {
	if t.dirs[dir] {
		return nil
	}
	if err := t.parents(root, path.Dir(dir)); err != nil {
		return err
	}
	info, err := root.Lstat(dir)
	if err != nil {
		return fmt.Errorf("cannot send %q: %w", dir, err)
	}
	return t.dir(dir, info.Mode())
}

// file sends one file or symbolic link as it is now; one that went away since
// it was listed is an error, since the list has been promised.
func (t *tarWriter) file(root *os.Root, name, as string) error {
	info, err := root.Lstat(name)
	if err != nil {
		return fmt.Errorf("cannot send %q: %w", name, err)
	}
	if info.Mode().Type() == fs.ModeSymlink {
		target, err := root.Readlink(name)
		if err != nil {
			return fmt.Errorf("cannot send %q: %w", name, err)
		}
		return t.header(&tar.Header{Typeflag: tar.TypeSymlink, Linkname: target, Mode: 0o777, ModTime: info.ModTime()}, as)
	}
	f, err := root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("cannot send %q: %w", name, err)
	}
	defer f.Close()
	if info, err = f.Stat(); err != nil {
		return fmt.Errorf("cannot send %q: %w", name, err)
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("cannot send %q: it is no longer a file", name)
	}
	if err := t.header(&tar.Header{Typeflag: tar.TypeReg, Size: info.Size(), Mode: int64(info.Mode().Perm()), ModTime: info.ModTime()}, as); err != nil {
		return err
	}
	switch n, err := io.Copy(t.w, io.LimitReader(f, info.Size())); {
	case err != nil:
		return fmt.Errorf("cannot send %q: %w", name, err)
	case n < info.Size():
		return fmt.Errorf("cannot send %q: it became shorter meanwhile", name)
	}
	return nil
}

// tree sends a directory of our own.
func (t *tarWriter) tree(ctx context.Context, dir, as string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("cannot open the repository's copy: %w", err)
	}
	defer root.Close()
	return filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err = errors.Join(err, ctx.Err()); err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, name)
		if err != nil {
			return err
		}
		if d.IsDir() {
			return t.dir(path.Join(as, rel), 0o755)
		}
		return t.file(root, rel, path.Join(as, rel))
	})
}
