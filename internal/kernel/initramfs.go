package kernel

import (
	"bufio"
	"context"
	"crypto/sha256"
	"debug/elf"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"banger/internal/api"
	"banger/internal/kernel/initramfs"
	"banger/internal/paths"
	"banger/internal/regular"
)

// Initramfs returns the path of the initramfs with the boot modules of a
// kernel and the agent's binary. It is made if it is not in the cache; then
// those with earlier versions of the agent are removed. A VMM does not need
// the file once it runs.
func (s *Store) Initramfs(ctx context.Context, kernel Kernel, agent string) (string, error) {
	sum, err := s.hash(agent)
	if err != nil {
		return "", fmt.Errorf("cannot read the agent's binary: %w", paths.Missing(agent, err))
	}
	dir := s.initramfsDir()
	place := filepath.Join(dir, initramfsPrefix(kernel.Digest)+sum[:16]+".cpio")
	if _, err := os.Stat(place); err == nil {
		return place, nil
	}
	if err := checkAgent(agent); err != nil {
		return "", err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return "", fmt.Errorf("cannot create the cache directory: %w", err)
	}
	if err := ctx.Err(); err != nil {
		return "", err
	}
	if err := writeInitramfs(place, agent, kernel.BootModules()); err != nil {
		return "", s.explain(kernel.Name, err)
	}
	if err := s.removeInitramfs(kernel.Digest, place); err != nil {
		return "", err
	}
	return place, nil
}

// checkAgent refuses a binary that the guest's kernel could not run: it is the
// first program there, and nothing else is beside it.
func checkAgent(path string) error {
	refuse := func(why string) error {
		return &api.Error{
			Kind: api.KindState, Message: fmt.Sprintf("cannot use %q as the agent of guests: %s", path, why),
			Hint: "build banger with: make install (go build alone needs CGO_ENABLED=0)",
		}
	}
	program, err := elf.Open(path)
	if format := (*elf.FormatError)(nil); errors.As(err, &format) || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return refuse("it is no program for Linux")
	}
	if err != nil {
		return fmt.Errorf("cannot read the agent's binary: %w", err)
	}
	defer func() { _ = program.Close() }()
	for _, part := range program.Progs {
		if part.Type == elf.PT_INTERP {
			return refuse("it needs shared libraries, and a guest has none that early")
		}
	}
	return nil
}

func (s *Store) initramfsDir() string { return filepath.Join(s.opts.CacheDir, "initramfs") }

// initramfsPrefix begins the names of all initramfs files for a kernel.
func initramfsPrefix(digest string) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%d %s", initramfs.Format, digest))
	return hex.EncodeToString(sum[:8]) + "-"
}

// writeInitramfs makes the file, so that it is whole whenever it is there.
func writeInitramfs(place, agent string, modules []string) (err error) {
	file, err := os.CreateTemp(filepath.Dir(place), filepath.Base(place)+".tmp")
	if err != nil {
		return fmt.Errorf("cannot write the initramfs: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, file.Close(), os.Remove(file.Name()))
		}
	}()
	w := bufio.NewWriterSize(file, 1<<20)
	if err := initramfs.Build(w, agent, modules); err != nil {
		return err
	}
	if err := errors.Join(w.Flush(), file.Chmod(0o444), file.Sync()); err != nil {
		return fmt.Errorf("cannot write the initramfs: %w", err)
	}
	if err := os.Rename(file.Name(), place); err != nil {
		return fmt.Errorf("cannot write the initramfs: %w", err)
	}
	return file.Close()
}

// removeInitramfs removes all initramfs files for a kernel but one, among them
// what a killed process has left half-written.
func (s *Store) removeInitramfs(digest, keep string) error {
	entries, err := os.ReadDir(s.initramfsDir())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot clean up the cache: %w", err)
	}
	for _, entry := range entries {
		path := filepath.Join(s.initramfsDir(), entry.Name())
		if path == keep || !strings.HasPrefix(entry.Name(), initramfsPrefix(digest)) {
			continue
		}
		if strings.HasPrefix(path, keep+".tmp") && keep != "" {
			continue // another call is making the same one
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("cannot clean up the cache: %w", err)
		}
	}
	return nil
}

// hash returns the SHA-256 of a file in hex, and remembers it for as long as
// the file looks the same.
func (s *Store) hash(path string) (string, error) {
	file, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return "", err
	}
	id := regular.Identify(info)
	s.mu.Lock()
	sum, ok := s.hashes[id]
	s.mu.Unlock()
	if ok {
		return sum, nil
	}
	hash := sha256.New()
	if _, err := io.Copy(hash, file); err != nil {
		return "", err
	}
	sum = hex.EncodeToString(hash.Sum(nil))
	s.mu.Lock()
	s.hashes = map[regular.ID]string{id: sum} // the one agent there is
	s.mu.Unlock()
	return sum, nil
}
