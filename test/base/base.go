// Package base keeps a kernel and an image between runs of the tests that boot
// real VMs, and gives each test's instance of banger its own links to them.
package base

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// Kernel and Image are what tests boot.
const (
	Kernel = "debian-6.12"
	Image  = "debian-bookworm"
)

// Prepare installs banger under prefix and returns the [Dir] of the module at
// root, with what it fetched there.
func Prepare(ctx context.Context, root, prefix string, log io.Writer) (dir string, err error) {
	if err := Install(ctx, root, prefix, log); err != nil {
		return "", err
	}
	dir, err = Dir(root)
	if err != nil {
		return "", err
	}
	return dir, Fetch(ctx, dir, prefix, log)
}

// Install builds the module at root and installs it under prefix as users do.
func Install(ctx context.Context, root, prefix string, log io.Writer) error {
	cmd := exec.CommandContext(ctx, "make", "--no-print-directory", "install", "PREFIX="+prefix, "DESTDIR=")
	cmd.Dir = root
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("cannot build the programs: %w", err)
	}
	return nil
}

// Agent is the guests' agent of a banger installed under prefix.
func Agent(prefix string) string {
	return filepath.Join(prefix, "lib", "banger", "banger-vsock-agent")
}

// State is banger's state directory in a [Dir]: it holds kernels and images.
func State(dir string) string { return filepath.Join(dir, "banger") }

// Dir is a directory that is kept between runs: below BANGER_TEST_STATE or
// ~/.cache/banger-test, and named after the definitions of both in the module at
// root, so that a changed definition is fetched anew. It is made.
func Dir(root string) (string, error) {
	top := os.Getenv("BANGER_TEST_STATE")
	if top == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			return "", err
		}
		top = filepath.Join(cache, "banger-test")
	}
	definitions := filepath.Join(root, "images")
	hash := sha256.New()
	for _, used := range []string{Image, filepath.Join("kernels", Kernel+".toml")} {
		err := filepath.WalkDir(filepath.Join(definitions, used), func(path string, entry fs.DirEntry, err error) error {
			if err != nil || !entry.Type().IsRegular() {
				return err
			}
			data, err := os.ReadFile(path)
			fmt.Fprintf(hash, "%s %d\n%s", strings.TrimPrefix(path, definitions), len(data), data)
			return err
		})
		if err != nil {
			return "", err
		}
	}
	dir := filepath.Join(top, hex.EncodeToString(hash.Sum(nil)[:6]))
	return dir, os.MkdirAll(dir, 0o700)
}

// Fetch lets the real banger installed under prefix fetch what is missing in
// dir. What it says goes to log. Of several at once, one fetches.
func Fetch(ctx context.Context, dir, prefix string, log io.Writer) (err error) {
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return err
	}
	// It has no VMs. Another version's database would be in the way.
	for _, name := range []string{"banger.db", "banger.db-wal", "banger.db-shm"} {
		if err := os.RemoveAll(filepath.Join(State(dir), name)); err != nil {
			return err
		}
	}
	// Short: sockets are in it.
	private, err := os.MkdirTemp("/tmp", "be2e-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(private)) }()
	for _, args := range [][]string{{"kernel", "pull", Kernel}, {"image", "pull", Image}, {"daemon", "stop"}} {
		cmd := exec.CommandContext(ctx, filepath.Join(prefix, "bin", "banger"), args...)
		cmd.Env = append(os.Environ(), "XDG_STATE_HOME="+dir, "XDG_RUNTIME_DIR="+private,
			"XDG_CONFIG_HOME="+filepath.Join(private, "config"), "XDG_CACHE_HOME="+filepath.Join(dir, "cache"))
		cmd.Stdout, cmd.Stderr = log, log
		fmt.Fprintf(log, "test state in %s: banger %s\n", dir, strings.Join(args, " "))
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("cannot provide kernel and image for the tests: banger %s: %w", strings.Join(args, " "), err)
		}
	}
	return nil
}

// Provide puts what [Fetch] has fetched into dir into the state home of another
// instance, which has no kernel and image yet: as hard links, since nobody
// writes to these files, or as copies where there can be none.
func Provide(ctx context.Context, dir, stateHome string) error {
	for _, store := range []string{"images", "kernels"} {
		// Not the locks: they are for one instance.
		for _, part := range []string{"objects", "names"} {
			rest := filepath.Join("banger", store, part)
			if err := link(ctx, filepath.Join(dir, rest), filepath.Join(stateHome, rest)); err != nil {
				return fmt.Errorf("cannot provide kernel and image for a test: %w", err)
			}
		}
	}
	return nil
}

func link(ctx context.Context, from, to string) error {
	return filepath.WalkDir(from, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		target := filepath.Join(to, relative)
		if entry.IsDir() {
			return os.MkdirAll(target, 0o700)
		}
		err = os.Link(path, target)
		if errors.Is(err, syscall.EXDEV) || errors.Is(err, syscall.EPERM) {
			out, err := exec.CommandContext(ctx, "cp", "-a", "--reflink=auto", "--sparse=always", path, target).CombinedOutput()
			if err != nil {
				return fmt.Errorf("%w: %s", err, out)
			}
			return nil
		}
		return err
	})
}
