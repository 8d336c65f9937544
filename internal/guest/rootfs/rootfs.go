// Package rootfs works on the files of the guest's real root from outside of
// it. Paths are looked up as a process inside that root would see them: a
// symbolic link in the image, absolute or not, never leads out of it.
package rootfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strconv"

	"golang.org/x/sys/unix"

	"banger/internal/streams"
)

// FS is a directory that is taken for "/". Its methods may be called from any
// goroutine.
type FS struct {
	dir  *os.File
	self bool // the process' own root
}

// Open opens the directory at root. It stays the right one when it is moved
// in the tree of mounts later.
func Open(root string) (*FS, error) {
	dir, err := os.OpenFile(root, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot open the root: %w", err)
	}
	return &FS{dir: dir, self: path.Clean(root) == "/"}, nil
}

// Close releases the directory.
func (f *FS) Close() error { return f.dir.Close() }

// Chroot is the path to change the root of a new process to, empty if it has
// the right root already.
func (f *FS) Chroot() string {
	if f.self {
		return ""
	}
	return fdPath(f.dir)
}

func fdPath(file *os.File) string { return "/proc/self/fd/" + strconv.Itoa(int(file.Fd())) }

// OpenFile is os.OpenFile below the root.
func (f *FS) OpenFile(name string, flags int, perm fs.FileMode) (*os.File, error) {
	how := &unix.OpenHow{
		Flags:   uint64(flags | unix.O_CLOEXEC | unix.O_LARGEFILE),
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	}
	if flags&unix.O_CREAT != 0 {
		how.Mode = uint64(perm.Perm())
	}
	for {
		fd, err := unix.Openat2(int(f.dir.Fd()), path.Clean("/"+name), how)
		switch {
		case err == nil:
			return os.NewFile(uintptr(fd), name), nil
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.EAGAIN):
			// EAGAIN: something was renamed meanwhile.
		default:
			return nil, &fs.PathError{Op: "open", Path: name, Err: err}
		}
	}
}

// Stat follows links, as os.Stat does.
func (f *FS) Stat(name string) (fs.FileInfo, error) {
	file, err := f.OpenFile(name, unix.O_PATH, 0)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return file.Stat()
}

// Base returns the last element of the name that is left when all links are
// followed.
func (f *FS) Base(name string) (string, error) {
	file, err := f.OpenFile(name, unix.O_PATH, 0)
	if err != nil {
		return "", err
	}
	defer file.Close()
	target, err := os.Readlink(fdPath(file))
	if err != nil {
		return "", fmt.Errorf("cannot resolve %q: %w", name, err)
	}
	return path.Base(target), nil
}

// Root opens a directory as an os.Root, out of which nothing leads.
func (f *FS) Root(name string) (*os.Root, error) {
	dir, err := f.OpenFile(name, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	return os.OpenRoot(fdPath(dir))
}

// Mountpoint opens a directory, made if it is missing, and calls use with a
// path that means it whatever links the image has.
func (f *FS) Mountpoint(name string, use func(path string) error) error {
	dir, err := f.MkdirAll(name, 0o755)
	if err != nil {
		return err
	}
	defer dir.Close()
	return use(fdPath(dir))
}

// MkdirAll makes a directory and its missing parents, and opens it with
// O_PATH. Links to directories are followed.
func (f *FS) MkdirAll(name string, perm fs.FileMode) (*os.File, error) {
	name = path.Clean("/" + name)
	dir, err := f.OpenFile(name, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return dir, err
	}
	parent, err := f.MkdirAll(path.Dir(name), perm)
	if err != nil {
		return nil, err
	}
	defer parent.Close()
	err = unix.Mkdirat(int(parent.Fd()), path.Base(name), uint32(perm.Perm()))
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return nil, &fs.PathError{Op: "mkdir", Path: name, Err: err}
	}
	fd, err := unix.Openat(int(parent.Fd()), path.Base(name), unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		// Such as a link to nowhere.
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}

// ReadFile returns a file of at most limit bytes.
func (f *FS) ReadFile(name string, limit int64) ([]byte, error) {
	// O_NONBLOCK: a FIFO must not hang us.
	file, err := f.OpenFile(name, unix.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("cannot read %q: it is not a file", name)
	}
	data, err := streams.ReadAll(file, limit)
	if err != nil {
		return nil, fmt.Errorf("cannot read %q: %w", name, err)
	}
	return data, nil
}

// WriteFile replaces a file, or a link in its place, as a whole: after a crash
// there is the old or the new one. Missing directories are made; the file
// belongs to the caller.
func (f *FS) WriteFile(name string, data []byte, perm fs.FileMode) error {
	dir, err := f.MkdirAll(path.Dir(path.Clean("/"+name)), 0o755)
	if err != nil {
		return fmt.Errorf("cannot write %q: %w", name, err)
	}
	defer dir.Close()
	if err := replace(int(dir.Fd()), path.Base(name), data, perm); err != nil {
		return fmt.Errorf("cannot write %q: %w", name, err)
	}
	return nil
}

// Remove removes a file or a link. One that is not there is no error.
func (f *FS) Remove(name string) error {
	dir, err := f.OpenFile(path.Dir(path.Clean("/"+name)), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err == nil {
		defer dir.Close()
		err = unix.Unlinkat(int(dir.Fd()), path.Base(name), 0)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot remove %q: %w", name, err)
	}
	return nil
}

func replace(dir int, base string, data []byte, perm fs.FileMode) (err error) {
	temp := "." + base + ".banger"
	if err := unix.Unlinkat(dir, temp, 0); err != nil && !errors.Is(err, unix.ENOENT) {
		return err
	}
	fd, err := unix.Openat(dir, temp, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, uint32(perm.Perm()))
	if err != nil {
		return err
	}
	file := os.NewFile(uintptr(fd), temp)
	defer func() {
		file.Close()
		if err != nil {
			err = errors.Join(err, unix.Unlinkat(dir, temp, 0))
		}
	}()
	if _, err := file.Write(data); err != nil {
		return err
	}
	// Past the umask.
	if err := file.Chmod(perm.Perm()); err != nil {
		return err
	}
	return unix.Renameat(dir, temp, dir, base)
}
