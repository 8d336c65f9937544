package oci

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"time"

	"banger/internal/objects"
	"banger/internal/streams"
)

// Blobs is a cache of content by digest, in a directory that any number of
// processes may use at once:
//
//	sha256/HEX     verified content
//	partial/HEX    what an interrupted download has got
//	locks/HEX      held by who downloads or removes it
//
// All of it can be removed: it is fetched again when it is needed.
type Blobs struct {
	dir string
}

// OpenBlobs returns the cache in dir, which is made when it is first needed.
func OpenBlobs(dir string) *Blobs { return &Blobs{dir} }

var validDigest = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

func checkDigest(digest string) error {
	if !validDigest.MatchString(digest) {
		return fmt.Errorf("%.80q is not a sha256 digest", digest)
	}
	return nil
}

func (b *Blobs) path(kind, digest string) string {
	return filepath.Join(b.dir, kind, strings.TrimPrefix(digest, sha256Prefix))
}

// Open opens verified content; [fs.ErrNotExist] without it.
func (b *Blobs) Open(digest string) (*os.File, error) {
	if err := checkDigest(digest); err != nil {
		return nil, err
	}
	return os.Open(b.path("sha256", digest))
}

// Missing returns how many bytes of a blob are still to be fetched.
func (b *Blobs) Missing(digest string, size int64) int64 {
	if _, err := os.Stat(b.path("sha256", digest)); err == nil {
		return 0
	}
	if info, err := os.Stat(b.path("partial", digest)); err == nil {
		return max(size-info.Size(), 0)
	}
	return size
}

// errRestart is what a get returns that cannot go on at an offset.
var errRestart = errors.New("it cannot go on in the middle")

// getFunc gives a blob's bytes from an offset on, or errRestart.
type getFunc func(ctx context.Context, offset int64) (io.ReadCloser, error)

// attempts is how often an interrupted download is taken up again.
const attempts = 4

// Fetch makes sure that the blob is there, and opens it. Of several Fetches of
// one blob, in whatever processes, one downloads. What an interrupted one has
// got is kept, and used by the next. Content of another digest is a
// [DigestError], and is not kept. Got is called with the bytes that came in.
func (b *Blobs) Fetch(ctx context.Context, digest string, size int64, get getFunc, got func(n int64)) (*os.File, error) {
	if file, err := b.Open(digest); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return file, err
	}
	unlock, err := objects.Lock(ctx, b.path("locks", digest))
	if err != nil {
		return nil, err
	}
	defer unlock()
	if file, err := b.Open(digest); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return file, err
	}
	for _, kind := range []string{"partial", "sha256"} {
		if err := os.MkdirAll(filepath.Join(b.dir, kind), 0o700); err != nil {
			return nil, fmt.Errorf("cannot prepare the cache: %w", err)
		}
	}
	for try := 1; ; try++ {
		err := b.download(ctx, digest, size, get, got)
		if err == nil {
			return b.Open(digest)
		}
		if ctx.Err() != nil || try == attempts || !mayPass(err) {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(time.Duration(try*try) * 200 * time.Millisecond):
		}
	}
}

// permanentError is one that trying again does not help against.
type permanentError struct{ error }

func (e permanentError) Unwrap() error { return e.error }

func mayPass(err error) bool {
	_, permanent := errors.AsType[permanentError](err)
	_, damaged := errors.AsType[*DigestError](err)
	return !permanent && !damaged && !errors.Is(err, syscall.ENOSPC)
}

// download brings the partial file to its end, and moves it in place. The blob
// is locked.
func (b *Blobs) download(ctx context.Context, digest string, size int64, get getFunc, got func(int64)) (err error) {
	partial := b.path("partial", digest)
	file, err := os.OpenFile(partial, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return permanentError{fmt.Errorf("cannot write to the cache: %w", err)}
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	sum := sha256.New()
	offset, err := io.Copy(sum, streams.Until(ctx, file))
	if err != nil {
		return fmt.Errorf("cannot read what was downloaded: %w", err)
	}
	restart := func() error {
		sum.Reset()
		offset = 0
		_, err := file.Seek(0, io.SeekStart)
		return errors.Join(err, file.Truncate(0))
	}
	if offset > size {
		if err := restart(); err != nil {
			return err
		}
	}
	if offset < size || size == 0 {
		body, err := get(ctx, offset)
		if errors.Is(err, errRestart) {
			if err := restart(); err != nil {
				return err
			}
			body, err = get(ctx, 0)
		}
		if err != nil {
			return err
		}
		n, err := io.Copy(io.MultiWriter(file, sum), &countingReader{io.LimitReader(body, size-offset+1), got})
		err = errors.Join(err, body.Close())
		offset += n
		switch {
		case err != nil && !errors.Is(err, syscall.ENOSPC):
			return fmt.Errorf("the download broke off after %d of %d bytes: %w", offset, size, err)
		case err != nil:
			return err
		case offset < size:
			return fmt.Errorf("the download broke off after %d of %d bytes", offset, size)
		}
	}
	if actual := sha256Prefix + hex.EncodeToString(sum.Sum(nil)); actual != digest || offset != size {
		wrong := error(&DigestError{What: "what was downloaded", Want: digest, Got: actual})
		if offset != size {
			wrong = permanentError{fmt.Errorf("the download of %s has more than the %d bytes that it should have", digest, size)}
		}
		return errors.Join(wrong, os.Remove(partial))
	}
	if err := file.Sync(); err != nil {
		return fmt.Errorf("cannot write to the cache: %w", err)
	}
	if err := os.Rename(partial, b.path("sha256", digest)); err != nil {
		return fmt.Errorf("cannot write to the cache: %w", err)
	}
	return nil
}

type countingReader struct {
	r   io.Reader
	got func(int64)
}

func (r *countingReader) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	r.got(int64(n))
	return n, err
}

// Drop removes a blob that was found to be damaged.
func (b *Blobs) Drop(digest string) error {
	if err := checkDigest(digest); err != nil {
		return err
	}
	if err := os.Remove(b.path("sha256", digest)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// Prune removes everything that nobody is downloading, or with dryRun only
// says what that would be: the number of blobs and the bytes they take. What
// is being read stays readable to who has opened it.
func (b *Blobs) Prune(dryRun bool) (count int, freed int64, err error) {
	var errs []error
	for _, kind := range []string{"sha256", "partial"} {
		entries, err := os.ReadDir(filepath.Join(b.dir, kind))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
		for _, entry := range entries {
			n, err := b.pruneOne(kind, entry.Name(), dryRun)
			if err != nil {
				errs = append(errs, err)
			}
			if n >= 0 {
				count++
				freed += n
			}
		}
	}
	if err := errors.Join(errs...); err != nil {
		return count, freed, fmt.Errorf("cannot clean up the cache: %w", err)
	}
	return count, freed, nil
}

// pruneOne returns the bytes of a blob that is removed, -1 if it stays.
func (b *Blobs) pruneOne(kind, name string, dryRun bool) (int64, error) {
	digest := sha256Prefix + name
	if checkDigest(digest) != nil {
		return -1, nil // not ours
	}
	unlock, ok, err := objects.TryLock(b.path("locks", digest))
	if err != nil || !ok {
		return -1, err
	}
	defer unlock()
	path := b.path(kind, digest)
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return -1, nil
	}
	if err != nil {
		return -1, err
	}
	size := info.Size()
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		size = stat.Blocks * 512
	}
	if !dryRun {
		if err := os.Remove(path); err != nil {
			return -1, err
		}
	}
	return size, nil
}
