// Package disk makes and grows the writable disks of VMs: sparse files with an
// ext4 file system. It needs no privilege and mounts nothing: the file systems
// are written by e2fsprogs.
package disk

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"banger/internal/api"
	"banger/internal/excerpt"
	"banger/internal/space"
	"banger/internal/tool"
)

// MinSize is the smallest disk in bytes that [Create] makes.
const MinSize = 64 << 20

// features are ext4's usual ones, named since the host's mke2fs.conf is not
// asked. No resize inode: it costs 4 MiB, and the kernel grows a disk
// without.
const features = "none,has_journal,ext_attr,dir_index,filetype,extent,64bit,flex_bg,sparse_super,large_file,huge_file,dir_nlink,extra_isize,metadata_csum"

// Create makes a sparse file of size bytes at path with an empty ext4 file
// system. It appears at path only when it is complete; a file there is
// replaced. A fresh disk takes less than a MiB on the host.
func Create(ctx context.Context, path string, size int64) error {
	return create(path, size, true, func(file *os.File) error { return format(ctx, file.Name()) })
}

// create makes a sparse file whose content is written by fill.
func create(path string, size int64, lasting bool, fill func(file *os.File) error) (err error) {
	if size < MinSize {
		return fmt.Errorf("cannot create the disk %q: %d bytes are less than the least, %d", path, size, int64(MinSize))
	}
	temporary := path + ".tmp"
	file, err := os.OpenFile(temporary, os.O_CREATE|os.O_TRUNC|os.O_RDWR|syscall.O_CLOEXEC, 0o600)
	if err != nil {
		return wrap("create the disk", path, err)
	}
	defer file.Close()
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(temporary))
		}
	}()
	if err := file.Truncate(size); err != nil {
		return wrap("create the disk", path, err)
	}
	if err := fill(file); err != nil {
		return wrap("create the disk", path, err)
	}
	if lasting {
		if err := file.Sync(); err != nil {
			return wrap("write the disk", path, err)
		}
	}
	if err := os.Rename(temporary, path); err != nil {
		return wrap("create the disk", path, err)
	}
	if lasting {
		return syncDir(filepath.Dir(path))
	}
	return nil
}

// format makes an empty file system in a file that is all zeros.
func format(ctx context.Context, path string) error {
	// Nothing has to be zeroed, by mke2fs or later by the guest; e2fsprogs
	// before 1.47 cannot be told so.
	args := []string{"-q", "-F", "-t", "ext4", "-b", "4096", "-I", "256", "-i", "16384", "-m", "0", "-O", features, "-E", "nodiscard,assume_storage_prezeroed=1", path}
	err := run(ctx, "mke2fs", args...)
	if err == nil || ctx.Err() != nil || isNoSpace(err) {
		return err
	}
	args[len(args)-2] = "nodiscard,lazy_itable_init=1,lazy_journal_init=1"
	return run(ctx, "mke2fs", args...)
}

// Grow makes the disk at path at least size bytes long. Its file system follows
// when the guest mounts it: what a guest wrote is not for the host's programs to
// read, and ext4 grows safely while it is mounted. Disks never shrink.
func Grow(path string, size int64) error {
	file, err := os.OpenFile(path, os.O_RDWR|syscall.O_CLOEXEC, 0)
	if err != nil {
		return wrap("grow the disk", path, err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return wrap("grow the disk", path, err)
	}
	if info.Size() >= size {
		return nil
	}
	if err := file.Truncate(size); err != nil {
		return wrap("grow the disk", path, err)
	}
	return nil
}

// Usage is the space that the files take on the host, in bytes; files that do
// not exist take none.
func Usage(paths ...string) (int64, error) {
	var total int64
	for _, path := range paths {
		var stat syscall.Stat_t
		if err := syscall.Stat(path, &stat); errors.Is(err, syscall.ENOENT) {
			continue
		} else if err != nil {
			return 0, fmt.Errorf("cannot look at the disk %q: %w", path, err)
		}
		total += stat.Blocks * 512
	}
	return total, nil
}

// Tools are the programs this package runs, for doctor.
func Tools() []string { return []string{"mke2fs"} }

// findTool finds a program of e2fsprogs.
func findTool(name string) (string, error) {
	path, err := tool.Find(name)
	if err != nil {
		return "", &api.Error{Kind: api.KindState, Message: "cannot find the program " + strconv.Quote(name), Hint: "install the package e2fsprogs"}
	}
	return path, nil
}

func run(ctx context.Context, name string, args ...string) error {
	_, err := output(ctx, name, args...)
	return err
}

// output runs a program and returns what it says, on whichever stream: of much,
// the beginning and the end.
func output(ctx context.Context, name string, args ...string) (string, error) {
	path, err := findTool(name)
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Args[0] = name // they begin their complaints with it
	cmd.Env = append(os.Environ(), "LC_ALL=C", "MKE2FS_CONFIG=/dev/null")
	// A terminal's Ctrl-C or the end of bangerd must not end it half way.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	said := new(excerpt.Writer)
	cmd.Stdout, cmd.Stderr = said, said
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return "", ctx.Err()
		}
		return "", &toolError{name: name, said: said.String(), err: err}
	}
	return said.String(), nil
}

// toolError is a failure of a program, with what it printed. The last line of
// that is shown.
type toolError struct {
	name, said string
	err        error
}

func (e *toolError) Error() string {
	last := lastLine(e.said)
	if last == "" {
		return fmt.Sprintf("%s: %v", e.name, e.err)
	}
	return fmt.Sprintf("%s: %v: %s", e.name, e.err, last)
}

func (e *toolError) Unwrap() error { return e.err }

func lastLine(output string) string {
	lines := strings.Split(strings.TrimSpace(output), "\n")
	return strings.TrimSpace(lines[len(lines)-1])
}

func isNoSpace(err error) bool {
	if space.IsFull(err) {
		return true
	}
	failed, ok := errors.AsType[*toolError](err)
	return ok && (strings.Contains(lastLine(failed.said), "No space left on device") || strings.Contains(lastLine(failed.said), "short write"))
}

// wrap makes the error of a step, one of [api.KindNoSpace] if that is the cause.
func wrap(what, path string, err error) error {
	if isNoSpace(err) {
		return NoSpace(fmt.Sprintf("cannot %s %q", what, path))
	}
	return fmt.Errorf("cannot %s %q: %w", what, path, err)
}

// NoSpace is the error of something that failed since the host's disk is full.
func NoSpace(what string) error {
	return &api.Error{
		Kind:    api.KindNoSpace,
		Message: what + ": no space left on the host's disk",
		Hint:    "free some space: delete VMs (banger vm delete), images or kernels that are no longer needed",
	}
}

// IsNoSpace says whether an error comes from a full disk, whoever noticed it.
func IsNoSpace(err error) bool {
	if known := (*api.Error)(nil); errors.As(err, &known) && known.Kind == api.KindNoSpace {
		return true
	}
	return isNoSpace(err)
}

func syncDir(dir string) error {
	file, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("cannot open the directory %q: %w", dir, err)
	}
	defer file.Close()
	if err := file.Sync(); err != nil {
		return fmt.Errorf("cannot write the directory %q: %w", dir, err)
	}
	return nil
}
