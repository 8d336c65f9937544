package e2e

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// baseDir is kept between runs. It is named after the recipes, so that a
// changed recipe is fetched anew.
func baseDir() (string, error) {
	root := os.Getenv("BANGER_TEST_STATE")
	if root == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			return "", err
		}
		root = filepath.Join(cache, "banger-test")
	}
	hash := sha256.New()
	err := filepath.WalkDir(filepath.Join("..", "..", "images"), func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		fmt.Fprintf(hash, "%s %d\n%s", path, len(data), data)
		return err
	})
	if err != nil {
		return "", err
	}
	dir := filepath.Join(root, hex.EncodeToString(hash.Sum(nil)[:6]))
	return dir, os.MkdirAll(dir, 0o700)
}

var (
	provideOnce sync.Once
	errProvide  error
)

// provide puts kernel and image into a state directory that has none.
func provide(state string) error {
	provideOnce.Do(func() { errProvide = fetchBase() })
	if errProvide != nil {
		return errProvide
	}
	base, err := baseDir()
	if err != nil {
		return err
	}
	for _, store := range []string{"images", "kernels"} {
		for _, part := range []string{"objects", "names"} {
			from := filepath.Join(base, "banger", store, part)
			if err := link(from, filepath.Join(state, "banger", store, part)); err != nil {
				return err
			}
		}
	}
	return nil
}

// fetchBase lets the real banger fetch what is missing.
func fetchBase() error {
	base, err := baseDir()
	if err != nil {
		return err
	}
	lock, err := os.OpenFile(filepath.Join(base, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return err
	}
	runtimeDir, err := os.MkdirTemp("/tmp", "be2e-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(runtimeDir)
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Minute)
	defer cancel()
	for _, args := range [][]string{
		{"kernel", "pull", "debian-6.12"},
		{"image", "pull", "debian-bookworm"},
		{"daemon", "stop"},
	} {
		cmd := exec.CommandContext(ctx, filepath.Join(prefix, "bin", "banger"), args...)
		cmd.Env = append(os.Environ(), "XDG_STATE_HOME="+base, "XDG_RUNTIME_DIR="+runtimeDir,
			"XDG_CONFIG_HOME="+filepath.Join(runtimeDir, "config"), "XDG_CACHE_HOME="+filepath.Join(base, "cache"))
		cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
		fmt.Fprintf(os.Stderr, "test state: banger %s\n", strings.Join(args, " "))
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("cannot provide kernel and image for the tests: banger %s: %w", strings.Join(args, " "), err)
		}
	}
	return nil
}

// link makes a tree of hard links, or of clones where there can be no links.
func link(from, to string) error {
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
			out, err := exec.CommandContext(context.Background(), "cp", "-a", "--reflink=auto", "--sparse=always", path, target).CombinedOutput()
			if err != nil {
				return fmt.Errorf("%w: %s", err, out)
			}
			return nil
		}
		return err
	})
}
