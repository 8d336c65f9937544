package debian

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/excerpt"
)

// workDir holds one build's files. Whoever uses it holds a lock on the file
// "lock" in it, so one whose lock is free was left by a process that died.
type workDir struct {
	path string
	lock *os.File
}

// Tree is where the packages are unpacked.
func (d workDir) Tree() string { return filepath.Join(d.path, "tree") }

func workDirPrefix() string { return "banger-build-" + strconv.Itoa(os.Getuid()) + "-" }

func newWorkDir(base string) (workDir, error) {
	fail := func(err error) (workDir, error) {
		return workDir{}, fmt.Errorf("cannot make a directory to build in: %w", err)
	}
	path, err := os.MkdirTemp(base, workDirPrefix())
	if err != nil {
		return fail(err)
	}
	lock, err := takeLock(filepath.Join(path, "lock"), os.O_CREATE|os.O_EXCL)
	if err != nil {
		return fail(err)
	}
	d := workDir{path, lock}
	// The root of a user namespace is another user out here: it may pass
	// through, but only read what is in the tree.
	err = errors.Join(os.Mkdir(d.Tree(), 0o755), os.Chmod(d.Tree(), 0o755), os.Chmod(path, 0o711))
	if err != nil {
		lock.Close()
		return fail(errors.Join(err, os.RemoveAll(path)))
	}
	return d, nil
}

// Remove removes the directory by a command that may remove files of the
// namespace's users. It runs to its end whatever was canceled before.
func (d workDir) Remove(command []string) error {
	defer d.lock.Close()
	return removeTree(d.path, command)
}

func removeTree(path string, command []string) error {
	tree := filepath.Join(path, "tree")
	// Only what is in the tree belongs to others.
	entries, err := os.ReadDir(tree)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot remove %q: %w", path, err)
	}
	if len(entries) > 0 {
		argv := append([]string{}, command...)
		for _, entry := range entries {
			argv = append(argv, filepath.Join(tree, entry.Name()))
		}
		// Nothing may stop this half-way: no context. The tops of the trees
		// belong to the user or stand in the user's directory, so rm may fail
		// on them; RemoveAll below decides.
		cmd := exec.Command(argv[0], argv[1:]...) //nolint:noctx // see above
		cmd.Dir = "/"
		cmd.Env = append(os.Environ(), "PATH="+searchPath())
		var said excerpt.Writer
		cmd.Stdout, cmd.Stderr = &said, &said
		err := cmd.Run()
		if rest := os.RemoveAll(path); rest != nil {
			return fmt.Errorf("cannot remove %q: %w", path, errors.Join(rest, err, errors.New(said.FirstLine())))
		}
		return nil
	}
	if err := os.RemoveAll(path); err != nil {
		return fmt.Errorf("cannot remove %q: %w", path, err)
	}
	return nil
}

// sweep removes what processes that died left under base.
func sweep(base string, command []string) error {
	paths, err := filepath.Glob(filepath.Join(base, workDirPrefix()+"*"))
	if err != nil {
		return fmt.Errorf("cannot look for left-over builds: %w", err)
	}
	var errs []error
	for _, path := range paths {
		info, err := os.Lstat(path)
		if err != nil || !info.IsDir() || int(info.Sys().(*syscall.Stat_t).Uid) != os.Getuid() {
			continue // gone meanwhile, or not ours
		}
		lock, err := takeLock(filepath.Join(path, "lock"), 0)
		switch {
		case errors.Is(err, fs.ErrNotExist) && time.Since(info.ModTime()) > time.Hour:
			// Its maker died between two system calls.
		case err != nil:
			continue // in use, or about to be
		default:
			defer lock.Close()
		}
		errs = append(errs, removeTree(path, command))
	}
	return errors.Join(errs...)
}

// takeLock opens a lock file and locks it, or fails at once.
func takeLock(path string, flags int) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOFOLLOW|flags, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}
