// Package disk makes and grows the writable disks of VMs: sparse files with an
// ext4 file system. It needs no privilege and mounts nothing: the file systems
// are written by e2fsprogs.
package disk

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"banger/internal/api"
)

// MinSize is the smallest disk in bytes that [Create] makes.
const MinSize = 64 << 20

// features are ext4's usual ones, named since the host's mke2fs.conf is not
// asked. No resize inode: it costs 4 MiB, and resize2fs does without.
const features = "none,has_journal,ext_attr,dir_index,filetype,extent,64bit,flex_bg,sparse_super,large_file,huge_file,dir_nlink,extra_isize,metadata_csum"

// Create makes a sparse file of size bytes at path with an empty ext4 file
// system. It appears at path only when it is complete; a file there is
// replaced. A fresh disk takes less than a MiB on the host.
func Create(ctx context.Context, path string, size int64) (err error) {
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
	// The file is all zeros, so nothing has to be zeroed, by mke2fs or later
	// by the guest; e2fsprogs before 1.47 cannot be told so.
	args := []string{"-q", "-F", "-t", "ext4", "-b", "4096", "-I", "256", "-i", "16384", "-m", "0", "-O", features, "-E", "nodiscard,assume_storage_prezeroed=1", temporary}
	if err := run(ctx, "mke2fs", args...); err != nil {
		if ctx.Err() != nil || isNoSpace(err) {
			return wrap("create the disk", path, err)
		}
		args[len(args)-2] = "nodiscard,lazy_itable_init=1,lazy_journal_init=1"
		if err := run(ctx, "mke2fs", args...); err != nil {
			return wrap("create the disk", path, err)
		}
	}
	if err := file.Sync(); err != nil {
		return wrap("write the disk", path, err)
	}
	if err := os.Rename(temporary, path); err != nil {
		return wrap("create the disk", path, err)
	}
	return syncDir(filepath.Dir(path))
}

// Grow makes the disk at path, which no VM may be using, and its file system
// at least size bytes long. It does nothing where that is so already, and can
// be repeated after an interruption. Disks never shrink.
func Grow(ctx context.Context, path string, size int64) error {
	file, err := lockDisk(ctx, path)
	if err != nil {
		return wrap("grow the disk", path, err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return wrap("grow the disk", path, err)
	}
	size = max(size, info.Size())
	have, err := fileSystemSize(path)
	if err != nil {
		return wrap("grow the disk", path, err)
	}
	// The file system's size is whole blocks.
	if info.Size() == size && have >= size&^4095 {
		return nil
	}
	if info.Size() < size {
		if err := os.Truncate(path, size); err != nil {
			return wrap("grow the disk", path, err)
		}
	}
	// Killed half way these could damage it: an impatient caller waits.
	ctx = context.WithoutCancel(ctx)
	// resize2fs wants a checked file system; -p also replays the journal.
	// Status 1 says that errors were corrected.
	err = runWith(ctx, file, "e2fsck", "-f", "-p", path)
	if exit := (*exec.ExitError)(nil); err != nil && (!errors.As(err, &exit) || exit.ExitCode() != 1) {
		return wrap("check the disk", path, err)
	}
	if err := runWith(ctx, file, "resize2fs", path); err != nil {
		return wrap("grow the disk", path, err)
	}
	return nil
}

// lockDisk opens a disk and waits until no program that changes it runs any
// more: one goes on when the bangerd that started it is killed.
func lockDisk(ctx context.Context, path string) (*os.File, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	for {
		err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return file, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			return nil, errors.Join(fmt.Errorf("cannot lock it: %w", err), file.Close())
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("another program is changing it: %w", context.Cause(ctx)), file.Close())
		case <-time.After(20 * time.Millisecond):
		}
	}
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

// fileSystemSize reads the size in bytes out of the ext4 superblock.
func fileSystemSize(path string) (int64, error) {
	file, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer file.Close()
	super := make([]byte, 1024)
	if _, err := file.ReadAt(super, 1024); err != nil {
		return 0, fmt.Errorf("cannot read the superblock: %w", err)
	}
	return parseSize(super)
}

// parseSize takes the size in bytes from a superblock of 1024 bytes. The guest
// can write what it likes there.
func parseSize(super []byte) (int64, error) {
	if len(super) < 1024 || binary.LittleEndian.Uint16(super[0x38:]) != 0xEF53 {
		return 0, errors.New("there is no ext4 file system on it")
	}
	shift := binary.LittleEndian.Uint32(super[0x18:])
	if shift > 6 {
		return 0, fmt.Errorf("its superblock is damaged: block size 1024<<%d", shift)
	}
	blocks := uint64(binary.LittleEndian.Uint32(super[0x04:]))
	const incompat64bit = 0x80
	if binary.LittleEndian.Uint32(super[0x60:])&incompat64bit != 0 {
		blocks |= uint64(binary.LittleEndian.Uint32(super[0x150:])) << 32
	}
	if blocks > 1<<46 {
		return 0, fmt.Errorf("its superblock is damaged: %d blocks", blocks)
	}
	return int64(blocks << (10 + shift)), nil
}

// Tools are the programs this package runs, for doctor.
func Tools() []string { return []string{"mke2fs", "e2fsck", "resize2fs"} }

// FindTool finds a program of e2fsprogs, which live where an ordinary user's
// PATH does not lead on Debian.
func FindTool(name string) (string, error) {
	if path, err := exec.LookPath(name); err == nil {
		return path, nil
	}
	for _, dir := range []string{"/usr/sbin", "/sbin"} {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path, nil
		}
	}
	return "", &api.Error{Kind: api.KindState, Message: "cannot find the program " + strconv.Quote(name), Hint: "install the package e2fsprogs"}
}

func run(ctx context.Context, name string, args ...string) error {
	return runWith(ctx, nil, name, args...)
}

// runWith is run for a program that inherits a file, and with it its lock.
func runWith(ctx context.Context, held *os.File, name string, args ...string) error {
	path, err := FindTool(name)
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, path, args...)
	if held != nil {
		cmd.ExtraFiles = []*os.File{held}
	}
	cmd.Env = append(os.Environ(), "LC_ALL=C", "MKE2FS_CONFIG=/dev/null")
	// A terminal's Ctrl-C or the end of bangerd must not end it half way.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return &toolError{name: name, output: lastLine(output.String()), err: err}
	}
	return nil
}

// toolError is a failure of a program, with the last line it printed.
type toolError struct {
	name, output string
	err          error
}

func (e *toolError) Error() string {
	if e.output == "" {
		return fmt.Sprintf("%s: %v", e.name, e.err)
	}
	return fmt.Sprintf("%s: %v: %s", e.name, e.err, e.output)
}

func (e *toolError) Unwrap() error { return e.err }

func lastLine(output string) string {
	lines := strings.Split(strings.TrimSpace(output), "\n")
	return strings.TrimSpace(lines[len(lines)-1])
}

func isNoSpace(err error) bool {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return true
	}
	tool := (*toolError)(nil)
	return errors.As(err, &tool) && (strings.Contains(tool.output, "No space left on device") || strings.Contains(tool.output, "short write"))
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
