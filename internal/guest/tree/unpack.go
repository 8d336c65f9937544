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
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Unpack writes a tar stream below root. Files replace what is in their place,
// directories are merged. With owners it gives files to whom the stream says,
// which needs privilege. Devices are refused; extended attributes are not
// carried.
func Unpack(root *os.Root, r io.Reader, owners bool) error {
	u := unpacker{root: root, owners: owners, buffer: make([]byte, 64<<10), umask: readUmask()}
	defer u.leave()
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
	buffer []byte
	// parent is the directory named parentName, kept open for the files that
	// follow each other in it: walking to each anew is what takes the time.
	// dir is its descriptor.
	parent     *os.Root
	parentName string
	dir        *os.File
	// umask is that of the process, and plain is true where a new file in the
	// directory belongs to root by itself.
	umask fs.FileMode
	plain bool
}

// enter opens the directory that an entry is in, making it if need be.
func (u *unpacker) enter(name string) (*os.Root, error) {
	if u.parent != nil && u.parentName == name {
		return u.parent, nil
	}
	u.leave()
	if name != "." {
		if err := u.root.MkdirAll(name, 0o755); err != nil {
			return nil, err
		}
	}
	parent, err := u.root.OpenRoot(name)
	if err != nil {
		return nil, err
	}
	dir, err := parent.Open(".")
	if err != nil {
		return nil, errors.Join(err, parent.Close())
	}
	info, err := dir.Stat()
	if err != nil {
		return nil, errors.Join(err, dir.Close(), parent.Close())
	}
	u.parent, u.parentName, u.dir = parent, name, dir
	u.plain = os.Geteuid() == 0 && info.Mode()&fs.ModeSetgid == 0
	return parent, nil
}

// leave forgets the open directory.
func (u *unpacker) leave() {
	if u.parent != nil {
		u.dir.Close()
		u.parent.Close()
		u.parent, u.dir = nil, nil
	}
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
	if h.Typeflag == tar.TypeReg {
		return u.file(h, content)
	}
	// Another link may lead another way from here on.
	defer u.leave()
	parent, err := u.enter(path.Dir(name))
	if err != nil {
		return err
	}
	if err := makeRoom(parent, path.Base(name)); err != nil {
		return err
	}
	switch h.Typeflag {
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

// makeRoom removes what is in the place of a new file.
func makeRoom(parent *os.Root, base string) error {
	info, err := parent.Lstat(base)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.IsDir() {
		return errors.New("there is a directory in its place")
	}
	return parent.Remove(base)
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

func (u *unpacker) file(h *tar.Header, content io.Reader) (err error) {
	parent, err := u.enter(path.Dir(h.Name))
	if err != nil {
		return err
	}
	base, mode := path.Base(h.Name), modeOf(h)
	// A descriptor, not an *os.File: with thousands of small files what Go does
	// besides for each shows.
	fd, err := u.create(base, mode)
	if errors.Is(err, unix.EEXIST) {
		if err := makeRoom(parent, base); err != nil {
			return err
		}
		fd, err = u.create(base, mode)
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unix.Close(fd)) }()
	if _, err := io.CopyBuffer(fdWriter(fd), struct{ io.Reader }{content}, u.buffer); err != nil {
		return err
	}
	if u.owners && (h.Uid != 0 || h.Gid != 0 || !u.plain) {
		if err := unix.Fchown(fd, h.Uid, h.Gid); err != nil {
			return err
		}
	}
	if mode&^fs.ModePerm != 0 || mode&u.umask != 0 {
		if err := unix.Fchmod(fd, uint32(h.Mode)&0o7777); err != nil {
			return err
		}
	}
	if h.ModTime.IsZero() {
		return nil
	}
	return setTimes(fd, h.ModTime)
}

func (u *unpacker) create(base string, mode fs.FileMode) (int, error) {
	for {
		fd, err := unix.Openat(int(u.dir.Fd()), base, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, uint32(mode.Perm()))
		if !errors.Is(err, unix.EINTR) {
			return fd, err
		}
	}
}

// fdWriter writes to a regular file.
type fdWriter int

func (w fdWriter) Write(b []byte) (int, error) {
	done := 0
	for done < len(b) {
		n, err := unix.Write(int(w), b[done:])
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return done, err
		}
		done += n
	}
	return done, nil
}

// setTimes is futimens(3): utimensat(2) on the descriptor itself, which Go's
// packages do by the name only.
func setTimes(fd int, t time.Time) error {
	spec, err := unix.TimeToTimespec(t)
	if err != nil {
		return err
	}
	specs := [2]unix.Timespec{spec, spec}
	_, _, errno := unix.Syscall6(unix.SYS_UTIMENSAT, uintptr(fd), 0, uintptr(unsafe.Pointer(&specs)), 0, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// readUmask is the process's umask, from proc_pid_status(5): asking umask(2)
// would change it for a moment. Where it is not said, no mode is taken as given.
func readUmask() fs.FileMode {
	data, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return fs.ModePerm
	}
	for line := range strings.Lines(string(data)) {
		if value, ok := strings.CutPrefix(line, "Umask:"); ok {
			if mask, err := strconv.ParseUint(strings.TrimSpace(value), 8, 32); err == nil {
				return fs.FileMode(mask) & fs.ModePerm
			}
		}
	}
	return fs.ModePerm
}

// modeOf is what chmod gets; the file system takes setuid and setgid away at a
// chown, so owners come first.
func modeOf(h *tar.Header) fs.FileMode {
	return h.FileInfo().Mode() & (fs.ModePerm | fs.ModeSetuid | fs.ModeSetgid | fs.ModeSticky)
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
	if err := u.root.Chmod(h.Name, modeOf(h)); err != nil {
		return err
	}
	if h.ModTime.IsZero() {
		return nil
	}
	return u.root.Chtimes(h.Name, h.ModTime, h.ModTime)
}
