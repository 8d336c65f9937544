package lab

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"banger/test/base"
)

// homeDisk returns the disk for /home, where the user's banger finds the kernel
// and the image that are in dir. It is made if dir does not have it yet, and
// what is on it belongs to anybody.
func homeDisk(ctx context.Context, dir string) (path string, err error) {
	sum := sha256.New()
	names, err := filepath.Glob(filepath.Join(base.State(dir), "*", "names", "*"))
	if err != nil {
		return "", err
	}
	for _, name := range names {
		data, err := os.ReadFile(name)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(sum, "%s\n%s\n", filepath.Base(name), data)
	}
	path = filepath.Join(dir, "lab-home-"+hex.EncodeToString(sum.Sum(nil)[:6])+".ext4")
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	work, err := os.MkdirTemp(dir, "run-")
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	tree, temporary := filepath.Join(work, "home"), filepath.Join(work, "home.ext4")
	if err := base.Provide(ctx, dir, filepath.Join(tree, user, ".local", "state")); err != nil {
		return "", err
	}
	out, err := exec.CommandContext(ctx, "mke2fs", "-q", "-F", "-t", "ext4", "-L", "home", "-m", "0", "-d", tree, temporary, "24G").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("cannot make the lab's disk for /home: %w: %s", err, out)
	}
	return path, os.Rename(temporary, path)
}
