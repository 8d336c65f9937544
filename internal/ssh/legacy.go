package ssh

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// RemoveLegacyConfig removes ssh/ssh_config below the configuration directory,
// where an older layout kept it, and then the ssh directory if that leaves it
// empty. Nothing else is touched, and nothing at all if the configured key is
// under that directory, by whatever name, or might be. What cannot be removed
// stays: that is logged and no error.
func RemoveLegacyConfig(ctx context.Context, configDir, keyPath string, log *slog.Logger) {
	dir := filepath.Join(configDir, "ssh")
	// A directory that is a link is a directory somebody shares.
	if info, err := os.Lstat(dir); err != nil || !info.IsDir() {
		return
	}
	file := filepath.Join(dir, "ssh_config")
	if info, err := os.Lstat(file); !errors.Is(err, fs.ErrNotExist) && (err != nil || !info.Mode().IsRegular()) {
		return
	}
	if under, err := mayBeUnder(keyPath, dir); under || err != nil {
		log.InfoContext(ctx, "kept the legacy ssh directory: the ssh key may be in it", "dir", dir, "key", keyPath, "error", err)
		return
	}
	if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
		log.WarnContext(ctx, "cannot remove the legacy ssh configuration", "error", err)
		return
	}
	// rmdir(2) removes an empty directory and nothing else.
	if err := syscall.Rmdir(dir); err != nil && !errors.Is(err, syscall.ENOTEMPTY) {
		log.WarnContext(ctx, "cannot remove the legacy ssh directory", "dir", dir, "error", err)
	}
}

// mayBeUnder says whether path is dir or below it, as written or with any of
// its links followed.
func mayBeUnder(path, dir string) (bool, error) {
	if path == "" {
		return true, errors.New("the path is empty")
	}
	absolute, err := filepath.Abs(path)
	if err != nil {
		return true, err
	}
	realDir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return true, err
	}
	if isUnder(absolute, dir) || isUnder(absolute, realDir) {
		return true, nil
	}
	if !filepath.IsAbs(path) {
		working, err := os.Getwd()
		if err != nil {
			return true, err
		}
		// Not joined: that would drop "link/..", which means something.
		path = working + "/" + path
	}
	realPath, err := follow(path)
	if err != nil {
		return true, err
	}
	return isUnder(realPath, realDir), nil
}

func isUnder(path, dir string) bool {
	return path == dir || strings.HasPrefix(path, strings.TrimSuffix(dir, "/")+"/")
}

// maxLinks is how many links the kernel follows too.
const maxLinks = 40

// follow resolves an absolute path as the kernel would, but goes on where a
// file does not exist: links may dangle.
func follow(path string) (string, error) {
	resolved := "/"
	rest := strings.Split(path, "/")
	links := 0
	for len(rest) > 0 {
		name := rest[0]
		rest = rest[1:]
		switch name {
		case "", ".":
			continue
		case "..":
			resolved = filepath.Dir(resolved)
			continue
		}
		next := filepath.Join(resolved, name)
		info, err := os.Lstat(next)
		switch {
		case errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR):
			resolved = next
		case err != nil:
			return "", err
		case info.Mode()&fs.ModeSymlink == 0:
			resolved = next
		default:
			if links++; links > maxLinks {
				return "", syscall.ELOOP
			}
			target, err := os.Readlink(next)
			if err != nil {
				return "", err
			}
			if filepath.IsAbs(target) {
				resolved = "/"
			}
			rest = append(strings.Split(target, "/"), rest...)
		}
	}
	return resolved, nil
}
