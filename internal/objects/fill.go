package objects

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/streams"
)

// Fill returns the named object, and has build make it first if it is not
// there or broken. Build writes the parts, regular files, into the empty
// directory tmp on the store's file system and returns the object's
// description. Of several Fills of one name, in whatever processes, one
// builds; the others wait for it, until their ctx ends, and get its object.
// When build fails nothing is kept. The error is what build returned, or one
// of the file system (ENOSPC among them).
func (s *Store[M]) Fill(ctx context.Context, name string, build func(ctx context.Context, tmp string) (M, error)) (Object[M], error) {
	return s.fill(ctx, name, expected{}, build)
}

// expected is what is known of an object before it is made.
type expected struct {
	digest string // empty if it may have any
	origin Origin
}

// Import is [Store.Fill] of an object that has this digest, made from what
// [Parse] has accepted. It is [ErrTaken] if the name has another object.
func (s *Store[M]) Import(ctx context.Context, name, digest string, origin Origin, build func(ctx context.Context, tmp string) (M, error)) (Object[M], error) {
	object, err := s.fill(ctx, name, expected{digest, origin}, build)
	if err == nil && object.Digest != digest {
		return Object[M]{}, fmt.Errorf("%q: %w", name, ErrTaken)
	}
	return object, err
}

// fill is Fill, of an object of which something is known.
func (s *Store[M]) fill(ctx context.Context, name string, want expected, build func(ctx context.Context, tmp string) (M, error)) (Object[M], error) {
	object, err := s.Get(name)
	if !missing(err) {
		return object, err
	}
	unlock, err := s.lockName(ctx, name)
	if err != nil {
		return Object[M]{}, err
	}
	defer unlock()
	if object, err = s.Get(name); !missing(err) {
		return object, err
	}
	if err := s.removeLeftovers(name); err != nil {
		return Object[M]{}, err
	}
	if err := s.build(ctx, name, want, func(publish func() error) error { return publish() }, build); err != nil {
		return Object[M]{}, err
	}
	return s.Get(name)
}

// Replace is [Store.Fill] that builds even if the name has an object; what it
// had is removed unless another name means it. If the name has one when the new
// one is finished, publish is called through guard, which may refuse.
func (s *Store[M]) Replace(ctx context.Context, name string, guard func(publish func() error) error, build func(ctx context.Context, tmp string) (M, error)) (Object[M], error) {
	if err := CheckName(name); err != nil {
		return Object[M]{}, err
	}
	unlock, err := s.lockName(ctx, name)
	if err != nil {
		return Object[M]{}, err
	}
	defer unlock()
	if err := s.removeLeftovers(name); err != nil {
		return Object[M]{}, err
	}
	if _, err := s.Get(name); missing(err) {
		guard = func(publish func() error) error { return publish() }
	}
	if err := s.build(ctx, name, expected{}, guard, build); err != nil {
		return Object[M]{}, err
	}
	unlockStore, err := s.lockStore(ctx)
	if err != nil {
		return Object[M]{}, err
	}
	err = s.removeUnnamed(name)
	unlockStore()
	if err != nil {
		return Object[M]{}, fmt.Errorf("cannot remove what %q was: %w", name, err)
	}
	return s.Get(name)
}

// Keep gives a name's object a second name, made of the first and the begin of
// the digest, and returns it.
func (s *Store[M]) Keep(ctx context.Context, name string) (string, error) {
	unlock, err := s.lockStore(ctx)
	if err != nil {
		return "", err
	}
	defer unlock()
	ref, err := s.readReference(name)
	if err != nil {
		return "", err
	}
	const shortDigest, longest = 12, 128
	suffix := "-" + strings.TrimPrefix(ref.Digest, digestPrefix)[:shortDigest]
	kept := name[:min(len(name), longest-len(suffix))] + suffix
	switch there, err := s.readReference(kept); {
	case err == nil && there.Digest == ref.Digest:
		return kept, nil
	case err == nil:
		return "", fmt.Errorf("%q: %w", kept, ErrTaken)
	case !missing(err):
		return "", err
	}
	data, err := json.Marshal(ref)
	if err != nil {
		return "", err
	}
	return kept, writeFile(s.nameFile(kept), data)
}

// missing tells whether Get's error means that the object has to be made.
func missing(err error) bool {
	return errors.Is(err, ErrNotFound) || errors.Is(err, ErrBroken)
}

// tmpSeparator ends the name in the name of a temporary directory; it is in no
// object's name.
const tmpSeparator = "@"

// build makes, and publishes under the name, an object that is what is expected.
// The name is locked.
func (s *Store[M]) build(ctx context.Context, name string, want expected, guard func(func() error) error, build func(context.Context, string) (M, error)) (err error) {
	for _, dir := range []string{s.tmpDir(), s.objectsDir(), s.namesDir()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("cannot create the directory: %w", err)
		}
	}
	tmp, err := os.MkdirTemp(s.tmpDir(), name+tmpSeparator)
	if err != nil {
		return fmt.Errorf("cannot create a temporary directory: %w", err)
	}
	defer func() {
		if rmErr := removeAll(tmp); rmErr != nil {
			err = errors.Join(err, fmt.Errorf("cannot remove a temporary directory: %w", rmErr))
		}
	}()
	var m Contents[M]
	if m.Manifest, err = build(ctx, tmp); err != nil {
		return err
	}
	if m.Parts, err = seal(ctx, tmp); err != nil {
		return fmt.Errorf("cannot store %q: %w", name, err)
	}
	data, err := m.encode()
	if err != nil {
		return fmt.Errorf("cannot store %q: %w", name, err)
	}
	if err := writeFile(filepath.Join(tmp, ManifestFile), data); err != nil {
		return fmt.Errorf("cannot store %q: %w", name, err)
	}
	digest := Digest(data)
	if want.digest != "" && digest != want.digest {
		return fmt.Errorf("cannot store %q: its digest is %s and should be %s", name, digest, want.digest)
	}
	return guard(func() error {
		if err := s.publish(ctx, name, tmp, digest, want.origin); err != nil {
			return fmt.Errorf("cannot store %q: %w", name, err)
		}
		return nil
	})
}

// publish moves the finished object in tmp to its place, unless the same one
// is there already, and lets the name mean it.
func (s *Store[M]) publish(ctx context.Context, name, tmp, digest string, origin Origin) error {
	unlock, err := s.lockStore(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if _, _, err := s.readManifest(digest); err != nil {
		if !errors.Is(err, ErrBroken) {
			return err
		}
		place := s.objectDir(digest)
		if err := s.discard(name, place); err != nil {
			return err
		}
		if err := os.Rename(tmp, place); err != nil {
			return err
		}
		if err := syncDir(s.objectsDir()); err != nil {
			return err
		}
	}
	data, err := json.Marshal(reference{Digest: digest, Created: time.Now().UTC().Truncate(time.Second), Origin: origin})
	if err != nil {
		return err
	}
	return writeFile(s.nameFile(name), data)
}

// discard removes an object's directory, if there is one, so that at no time a
// part of it is seen in its place.
func (s *Store[M]) discard(name, place string) error {
	if err := os.MkdirAll(s.tmpDir(), 0o700); err != nil {
		return err
	}
	grave, err := os.MkdirTemp(s.tmpDir(), name+tmpSeparator)
	if err != nil {
		return err
	}
	if err := os.Rename(place, filepath.Join(grave, "object")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return errors.Join(err, removeAll(grave))
	}
	return removeAll(grave)
}

// Delete removes the name, and its object if no other name means it. It waits
// for a Fill of the name to end. An unknown name is [ErrNotFound]; a broken
// entry can be deleted.
func (s *Store[M]) Delete(ctx context.Context, name string) error {
	if err := CheckName(name); err != nil {
		return err
	}
	if _, err := os.Lstat(s.nameFile(name)); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%q: %w", name, ErrNotFound)
	}
	unlockName, err := s.lockName(ctx, name)
	if err != nil {
		return err
	}
	defer unlockName()
	unlockStore, err := s.lockStore(ctx)
	if err != nil {
		return err
	}
	defer unlockStore()
	if err := os.Remove(s.nameFile(name)); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%q: %w", name, ErrNotFound)
	} else if err != nil {
		return fmt.Errorf("cannot delete %q: %w", name, err)
	}
	if err := syncDir(s.namesDir()); err != nil {
		return fmt.Errorf("cannot delete %q: %w", name, err)
	}
	if err := s.removeUnnamed(name); err != nil {
		return fmt.Errorf("cannot delete %q: %w", name, err)
	}
	return nil
}

// Sweep removes what killed processes have left: temporary directories that
// nobody works in, and objects without a name.
func (s *Store[M]) Sweep(ctx context.Context) error {
	if _, err := os.Lstat(s.dir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	entries, err := os.ReadDir(s.tmpDir())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot clean up %q: %w", s.dir, err)
	}
	var names []string
	for _, entry := range entries {
		if name, _, ok := strings.Cut(entry.Name(), tmpSeparator); ok && CheckName(name) == nil {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	var errs []error
	for _, name := range slices.Compact(names) {
		unlock, ok, err := s.tryLockName(name)
		if err != nil {
			errs = append(errs, err)
		}
		if !ok { // somebody works in it
			continue
		}
		errs = append(errs, s.removeLeftovers(name))
		unlock()
	}
	unlock, err := s.lockStore(ctx)
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	defer unlock()
	errs = append(errs, s.removeUnnamed("sweep"))
	return errors.Join(errs...)
}

// removeLeftovers removes the temporary directories of a name, which is locked:
// who made them is gone.
func (s *Store[M]) removeLeftovers(name string) error {
	entries, err := os.ReadDir(s.tmpDir())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot clean up %q: %w", s.tmpDir(), err)
	}
	for _, entry := range entries {
		if strings.HasPrefix(entry.Name(), name+tmpSeparator) {
			if err := removeAll(filepath.Join(s.tmpDir(), entry.Name())); err != nil {
				return fmt.Errorf("cannot clean up %q: %w", s.tmpDir(), err)
			}
		}
	}
	return nil
}

// removeAll is [os.RemoveAll], also of directories that are not writable, which
// killed builders may have left.
func removeAll(dir string) error {
	err := os.RemoveAll(dir)
	if !errors.Is(err, fs.ErrPermission) {
		return err
	}
	if chmodErr := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.IsDir() {
			return err
		}
		return os.Chmod(path, 0o700)
	}); chmodErr != nil {
		return errors.Join(err, chmodErr)
	}
	return os.RemoveAll(dir)
}

// removeUnnamed removes the objects that no name means. The store is locked.
// As long as a name cannot be read, nothing is: it may mean any of them.
func (s *Store[M]) removeUnnamed(grave string) error {
	names, err := s.names()
	if err != nil {
		return err
	}
	used := make(map[string]bool)
	for _, name := range names {
		ref, err := s.readReference(name)
		if errors.Is(err, ErrBroken) { // means none of them any more
			continue
		}
		if err != nil {
			return err
		}
		used[filepath.Base(s.objectDir(ref.Digest))] = true
	}
	entries, err := os.ReadDir(s.objectsDir())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, entry := range entries {
		if used[entry.Name()] {
			continue
		}
		if err := s.discard(grave, filepath.Join(s.objectsDir(), entry.Name())); err != nil {
			return err
		}
	}
	return nil
}

// seal makes sure that all files below dir are on disk, makes them read-only
// and returns them in the order of their paths.
func seal(ctx context.Context, dir string) ([]Part, error) {
	var parts []Part
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		switch {
		case entry.IsDir():
			return syncDir(path)
		case !entry.Type().IsRegular():
			return fmt.Errorf("%q is not a regular file", name)
		case name == ManifestFile:
			return fmt.Errorf("the name %q is the store's own", name)
		}
		size, sum, err := sealFile(ctx, path)
		parts = append(parts, Part{Path: filepath.ToSlash(name), Size: size, SHA256: sum})
		return err
	})
	return parts, err
}

func sealFile(ctx context.Context, path string) (int64, string, error) {
	file, err := os.Open(path)
	if err != nil {
		return 0, "", err
	}
	defer file.Close()
	hash := sha256.New()
	size, err := io.Copy(hash, streams.Until(ctx, file))
	if err != nil {
		return 0, "", err
	}
	if err := file.Chmod(0o444); err != nil {
		return 0, "", err
	}
	if err := file.Sync(); err != nil {
		return 0, "", err
	}
	return size, hex.EncodeToString(hash.Sum(nil)), nil
}

// writeFile writes a small file so that after a crash it is there with all its
// content or as it was before.
func writeFile(path string, data []byte) (err error) {
	// A name that a killed process left is overwritten: path's owner is locked.
	tmp := path + ".new"
	file, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(tmp))
		}
	}()
	_, err = file.Write(data)
	if err == nil {
		err = file.Sync()
	}
	if closeErr := file.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return err
	}
	if err := os.Rename(tmp, path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(dir string) error {
	file, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer file.Close()
	if err := file.Sync(); err != nil && !errors.Is(err, unix.EINVAL) { // some file systems cannot
		return err
	}
	return nil
}
