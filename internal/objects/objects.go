// Package objects keeps named, immutable, content-addressed directories of
// files: images and kernels. An object appears whole or not at all, whatever
// is killed in the middle, and any number of processes may use one store.
//
// On disk:
//
//	objects/sha256-HEX/         an object: its parts, and manifest.json, whose SHA-256 is HEX
//	names/NAME.json             which object a name means
//	locks/NAME                  held while NAME is being filled or deleted
//	lock                        held for the moment in which an object is published or removed
//	tmp/NAME@RANDOM/            work in progress, or what a killed process left of it
package objects

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// ErrNotFound is in the error chain when no object has the name.
var ErrNotFound = errors.New("not found")

// ErrBroken is in the error chain when the name is there but its object is not
// whole: a file was removed, or written to behind the store's back.
var ErrBroken = errors.New("the stored files are damaged")

// ErrBadName is in the error chain when a name is not one of [CheckName].
var ErrBadName = errors.New("not a valid name: it must have 1 to 128 of a-z, A-Z, 0-9, '.', '_' and '-', and begin with a letter or digit")

// ErrTaken is in the error chain when the name means another object.
var ErrTaken = errors.New("the name means something else")

// CheckName returns an error that is [ErrBadName] for what cannot name an
// object. Without a regular expression: making one takes a good part of the start
// of each process of bangerd.
func CheckName(name string) error {
	const longest, marks = 128, "._-"
	bad := name == "" || len(name) > longest || strings.ContainsRune(marks, rune(name[0])) ||
		strings.ContainsFunc(name, func(r rune) bool {
			return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune(marks, r)
		})
	if bad {
		return fmt.Errorf("%q: %w", name, ErrBadName)
	}
	return nil
}

// Object is one entry of a store.
type Object[M any] struct {
	Name string
	// Digest is "sha256:" and the hex digest of the manifest, which has the
	// digests of all parts in it.
	Digest string
	// Dir holds the parts. They must not be written to.
	Dir string
	// Manifest is what the builder of the object said about it, and Parts are
	// all its files. Others have the same: neither is to be written to.
	Manifest M
	Parts    []Part
	// Size is what the parts take on disk, in bytes.
	Size int64
	// Created is when the name was given to the object.
	Created time.Time
	// Origin is where the object came from, if not made here.
	Origin Origin
}

// Origin is how an object that others have made came to this host. It goes with
// the name, not with the content.
type Origin struct {
	// From is the path or the URL that it was at.
	From string `json:"from,omitempty"`
	// SignedBy is the key that its maker has signed it with, as a line of
	// authorized_keys; empty if no signature was looked at.
	SignedBy string `json:"signed_by,omitempty"`
}

// Path returns the path of a part, which is given relative to the object.
func (o Object[M]) Path(part string) string { return filepath.Join(o.Dir, part) }

// Store is a store in a directory. M describes an object; it goes through JSON.
// Its methods may be called from any goroutine and any process.
type Store[M any] struct {
	dir string

	mu      sync.Mutex
	decoded map[string]Contents[M] // by digest
}

// maxDecoded bounds how many manifests are remembered.
const maxDecoded = 64

// Open returns the store in dir, which is created when it is first written to.
func Open[M any](dir string) *Store[M] {
	return &Store[M]{dir: dir, decoded: make(map[string]Contents[M])}
}

// ManifestFile holds a [Contents].
const ManifestFile = "manifest.json"

// Contents is what manifest.json holds.
type Contents[M any] struct {
	Manifest M      `json:"manifest"`
	Parts    []Part `json:"parts"`
}

// Part is one regular file of an object.
type Part struct {
	// Path is relative to the object, with slashes.
	Path   string `json:"path"`
	Size   int64  `json:"size"`
	SHA256 string `json:"sha256"` // hex
}

// encode returns the bytes of manifest.json.
func (c Contents[M]) encode() ([]byte, error) { return json.MarshalIndent(c, "", "  ") }

// Parse reads the manifest.json of an object that another host has made. It
// accepts what a store here writes for the same object, and nothing else. The
// paths of parts lead to different places inside of the object.
func Parse[M any](data []byte) (Contents[M], error) {
	var c Contents[M]
	if err := json.Unmarshal(data, &c); err != nil {
		return c, err
	}
	again, err := c.encode()
	if err != nil {
		return c, err
	}
	if !bytes.Equal(again, data) {
		return c, errors.New("it says what this version of banger does not know")
	}
	seen := make(map[string]bool)
	for _, part := range c.Parts {
		switch {
		case part.Path == ManifestFile, part.Path == "." || path.Clean(part.Path) != part.Path || !filepath.IsLocal(part.Path):
			return c, fmt.Errorf("%q is no path of a part", part.Path)
		case seen[part.Path]:
			return c, fmt.Errorf("the part %q is there twice", part.Path)
		case part.Size < 0:
			return c, fmt.Errorf("the part %q has the size %d", part.Path, part.Size)
		case !isDigest(digestPrefix + part.SHA256):
			return c, fmt.Errorf("the part %q has no digest", part.Path)
		}
		seen[part.Path] = true
	}
	return c, nil
}

// Digest of a manifest.json, and so of the object it is of.
func Digest(manifest []byte) string {
	sum := sha256.Sum256(manifest)
	return digestPrefix + hex.EncodeToString(sum[:])
}

func isDigest(text string) bool {
	rest, ok := strings.CutPrefix(text, digestPrefix)
	sum, err := hex.DecodeString(rest)
	return ok && err == nil && len(sum) == sha256.Size && rest == strings.ToLower(rest)
}

// reference is what a file of names/ holds.
type reference struct {
	Digest  string    `json:"digest"`
	Created time.Time `json:"created"`
	Origin  Origin    `json:"origin,omitzero"`
}

const digestPrefix = "sha256:"

func (s *Store[M]) objectsDir() string { return filepath.Join(s.dir, "objects") }
func (s *Store[M]) namesDir() string   { return filepath.Join(s.dir, "names") }
func (s *Store[M]) tmpDir() string     { return filepath.Join(s.dir, "tmp") }

func (s *Store[M]) nameFile(name string) string {
	return filepath.Join(s.namesDir(), name+".json")
}

func (s *Store[M]) objectDir(digest string) string {
	return filepath.Join(s.objectsDir(), "sha256-"+strings.TrimPrefix(digest, digestPrefix))
}

// Get returns the named object. The error is [ErrNotFound], [ErrBroken] or
// [ErrBadName], or one of the file system. That the parts are there and have
// the right length is checked, their content is not.
func (s *Store[M]) Get(name string) (Object[M], error) {
	if err := CheckName(name); err != nil {
		return Object[M]{}, err
	}
	ref, err := s.readReference(name)
	if err != nil {
		return Object[M]{}, err
	}
	m, size, err := s.readManifest(ref.Digest)
	if err != nil {
		return Object[M]{}, fmt.Errorf("cannot use %q: %w", name, err)
	}
	dir := s.objectDir(ref.Digest)
	return Object[M]{Name: name, Digest: ref.Digest, Dir: dir, Manifest: m.Manifest, Parts: m.Parts, Size: size, Created: ref.Created, Origin: ref.Origin}, nil
}

// List returns all objects in the order of their names. The error tells about
// entries that are broken; the others are returned all the same.
func (s *Store[M]) List() ([]Object[M], error) {
	names, err := s.names()
	if err != nil {
		return nil, err
	}
	var (
		list []Object[M]
		errs []error
	)
	for _, name := range names {
		object, err := s.Get(name)
		switch {
		case err == nil:
			list = append(list, object)
		case !errors.Is(err, ErrNotFound): // deleted meanwhile
			errs = append(errs, err)
		}
	}
	return list, errors.Join(errs...)
}

// names returns the valid names of names/, sorted.
func (s *Store[M]) names() ([]string, error) {
	entries, err := os.ReadDir(s.namesDir())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("cannot list %q: %w", s.dir, err)
	}
	var names []string
	for _, entry := range entries {
		// What else is there is the temporary file of an interrupted write.
		if name, ok := strings.CutSuffix(entry.Name(), ".json"); ok && CheckName(name) == nil {
			names = append(names, name)
		}
	}
	return names, nil
}

func (s *Store[M]) readReference(name string) (reference, error) {
	var ref reference
	data, err := os.ReadFile(s.nameFile(name))
	if errors.Is(err, fs.ErrNotExist) {
		return ref, fmt.Errorf("%q: %w", name, ErrNotFound)
	}
	if err != nil {
		return ref, fmt.Errorf("cannot read the entry of %q: %w", name, err)
	}
	if err := json.Unmarshal(data, &ref); err != nil {
		return ref, fmt.Errorf("cannot read the entry of %q: %w: %w", name, ErrBroken, err)
	}
	if !isDigest(ref.Digest) {
		return ref, fmt.Errorf("cannot read the entry of %q: %w: %q is no digest", name, ErrBroken, ref.Digest)
	}
	return ref, nil
}

// readManifest returns the manifest of an object all of whose parts are there,
// and what these take on disk.
func (s *Store[M]) readManifest(digest string) (m Contents[M], size int64, err error) {
	dir := s.objectDir(digest)
	data, err := os.ReadFile(filepath.Join(dir, ManifestFile))
	if errors.Is(err, fs.ErrNotExist) {
		return m, 0, fmt.Errorf("%w: %w", ErrBroken, err)
	}
	if err != nil {
		return m, 0, err
	}
	if Digest(data) != digest {
		return m, 0, fmt.Errorf("%w: the manifest in %q was changed", ErrBroken, dir)
	}
	if m, err = s.decode(digest, data); err != nil {
		return m, 0, fmt.Errorf("%w: the manifest in %q: %w", ErrBroken, dir, err)
	}
	for _, part := range m.Parts {
		info, err := os.Lstat(filepath.Join(dir, filepath.FromSlash(part.Path)))
		if errors.Is(err, fs.ErrNotExist) {
			return m, 0, fmt.Errorf("%w: %w", ErrBroken, err)
		}
		if err != nil {
			return m, 0, err
		}
		if !info.Mode().IsRegular() || info.Size() != part.Size {
			return m, 0, fmt.Errorf("%w: %q in %q was changed", ErrBroken, part.Path, dir)
		}
		if stat, ok := info.Sys().(*syscall.Stat_t); ok {
			size += stat.Blocks * 512
		}
	}
	return m, size, nil
}

// decode reads a manifest, or remembers what it said.
func (s *Store[M]) decode(digest string, data []byte) (Contents[M], error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if m, ok := s.decoded[digest]; ok {
		return m, nil
	}
	var m Contents[M]
	if err := json.Unmarshal(data, &m); err != nil {
		return m, err
	}
	if len(s.decoded) == maxDecoded {
		clear(s.decoded)
	}
	s.decoded[digest] = m
	return m, nil
}
