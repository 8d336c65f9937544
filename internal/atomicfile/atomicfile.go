// Package atomicfile replaces files such that a reader, or a crash at any
// moment, sees either the old content or the new.
package atomicfile

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Write gives path this content and exactly this mode, whatever the umask. The
// directory must exist. A symlink at path is replaced, not followed.
func Write(path string, data []byte, mode fs.FileMode) error {
	if err := replace(path, data, mode, true); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

func replace(path string, data []byte, mode fs.FileMode, sync bool) (err error) {
	temporary, err := writeTemp(filepath.Dir(path), filepath.Base(path), data, mode, sync)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(temporary))
		}
	}()
	if err := os.Rename(temporary, path); err != nil {
		return fmt.Errorf("cannot replace the file: %w", err)
	}
	return nil
}

// WriteIfChanged is [Write], but leaves a regular file that has this content
// and mode alone, its modification time included. It is for what is derived and
// written again by the next start: the disk is not waited for, and a crash of
// the host, unlike one of programs, may leave neither content.
func WriteIfChanged(path string, data []byte, mode fs.FileMode) error {
	info, err := os.Lstat(path)
	if err == nil && info.Mode() == mode && info.Size() == int64(len(data)) {
		if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, data) {
			return nil
		}
	}
	return replace(path, data, mode, false)
}

// WriteTemp makes a file with a name of its own in dir, content and mode as
// given and on disk, and returns its path. After an error there is none.
func WriteTemp(dir, name string, data []byte, mode fs.FileMode) (path string, err error) {
	return writeTemp(dir, name, data, mode, true)
}

func writeTemp(dir, name string, data []byte, mode fs.FileMode, sync bool) (path string, err error) {
	file, err := os.CreateTemp(dir, "."+name+".*")
	if err != nil {
		return "", fmt.Errorf("cannot write the file %q: %w", filepath.Join(dir, name), err)
	}
	_, err = file.Write(data)
	err = errors.Join(err, file.Chmod(mode))
	if sync {
		err = errors.Join(err, file.Sync())
	}
	err = errors.Join(err, file.Close())
	if err != nil {
		return "", errors.Join(fmt.Errorf("cannot write the file %q: %w", filepath.Join(dir, name), err), os.Remove(file.Name()))
	}
	return file.Name(), nil
}

func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("cannot sync the directory: %w", err)
	}
	if err := errors.Join(dir.Sync(), dir.Close()); err != nil {
		return fmt.Errorf("cannot sync the directory: %w", err)
	}
	return nil
}
