// Package bundle packs an image or a kernel of a store into one file, and puts
// what such a file has into a store. docs/image-catalog.md has the format: a
// tar archive, compressed with zstd, of
//
//	banger-bundle.json   what it is: a [Header]
//	manifest.json        the object's own, whose digest the header has
//	...                  the parts, in the order of the manifest, which has their digests
//
// A signature is of the header's bytes, in a file beside the bundle: the
// header has the digest of the manifest, and that those of all parts. So each
// byte is verified against what was verified before it.
package bundle

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"

	"github.com/klauspost/compress/zstd"

	"banger/internal/objects"
	"banger/internal/streams"
)

// What a bundle may be of.
const (
	KindImage  = "image"
	KindKernel = "kernel"
)

// Header is what a bundle says about itself.
type Header struct {
	Format int    `json:"format"`
	Kind   string `json:"kind"`
	// Name is what it is called where nothing else is asked for.
	Name string `json:"name"`
	// Digest is that of the object: of the manifest.
	Digest string `json:"digest"`
	// Disk is how many bytes it took on the disk where it was packed, which
	// for sparse files is less than their sizes.
	Disk int64 `json:"disk"`
}

// FileName is what a bundle is called: its name is made of its content.
func (h Header) FileName() string {
	return h.Name + "-" + strings.TrimPrefix(h.Digest, "sha256:") + extension
}

const extension = ".tar.zst"

// digestInName finds the digest in a name that [Header.FileName] made.
var digestInName = regexp.MustCompile(`-([0-9a-f]{64})\.tar\.zst$`)

const (
	format     = 1
	headerFile = "banger-bundle.json"
)

// What a bundle may have: far above what bundles have.
const (
	maxHeader   = 64 << 10
	maxManifest = 4 << 20
	maxParts    = 10_000
	maxSize     = 64 << 30
	// maxWindow bounds the decoder's memory. `zstd -19` stays below.
	maxWindow = 32 << 20
)

// ErrNoBundle is in the error chain for what is something else altogether.
var ErrNoBundle = errors.New("it is no bundle")

// reader reads a bundle from its begin to its end.
type reader struct {
	plain io.Reader
	tar   *tar.Reader
	// Header and its bytes, which a signature is of.
	header Header
	signed []byte
}

// decompress is to be closed.
func decompress(ctx context.Context, stream io.Reader) (*zstd.Decoder, error) {
	return zstd.NewReader(streams.Until(ctx, stream), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderLowmem(true))
}

// newReader reads the header.
func newReader(plain io.Reader) (_ *reader, err error) {
	r := &reader{plain: plain, tar: tar.NewReader(plain)}
	entry, err := r.tar.Next()
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoBundle, err)
	}
	if entry.Name != headerFile {
		return nil, fmt.Errorf("%w: it begins with %q", ErrNoBundle, entry.Name)
	}
	if r.signed, err = r.small(entry, maxHeader); err != nil {
		return nil, err
	}
	if err := json.Unmarshal(r.signed, &r.header); err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", headerFile, err)
	}
	if r.header.Format != format {
		return nil, fmt.Errorf("it has format %d, and this version of banger knows format %d", r.header.Format, format)
	}
	if err := objects.CheckName(r.header.Name); err != nil {
		return nil, err
	}
	return r, nil
}

// small returns an entry's content.
func (r *reader) small(entry *tar.Header, limit int64) ([]byte, error) {
	if entry.Typeflag != tar.TypeReg || entry.Size > limit {
		return nil, fmt.Errorf("its %q is not a file of at most %d bytes", entry.Name, limit)
	}
	return io.ReadAll(r.tar)
}

// next returns the next entry, which must be the regular file of that name.
func (r *reader) next(name string) (*tar.Header, error) {
	entry, err := r.tar.Next()
	switch {
	case errors.Is(err, io.EOF):
		return nil, fmt.Errorf("it ends before %q", name)
	case err != nil:
		return nil, err
	case entry.Name != name:
		return nil, fmt.Errorf("it has %q where %q should be", entry.Name, name)
	case entry.Typeflag != tar.TypeReg:
		return nil, fmt.Errorf("its %q is not a regular file", name)
	}
	return entry, nil
}

// contents reads what the object is made of, which the header has the digest of.
func contents[M any](r *reader) (objects.Contents[M], error) {
	entry, err := r.next(objects.ManifestFile)
	if err != nil {
		return objects.Contents[M]{}, err
	}
	data, err := r.small(entry, maxManifest)
	if err != nil {
		return objects.Contents[M]{}, err
	}
	if digest := objects.Digest(data); digest != r.header.Digest {
		return objects.Contents[M]{}, fmt.Errorf("the digest of its %s is %s and should be %s", objects.ManifestFile, digest, r.header.Digest)
	}
	c, err := objects.Parse[M](data)
	if err != nil {
		return c, fmt.Errorf("cannot read its %s: %w", objects.ManifestFile, err)
	}
	var total int64
	for _, part := range c.Parts {
		if total += part.Size; part.Size > maxSize || total > maxSize {
			return c, fmt.Errorf("it is to have more than %d GiB", maxSize>>30)
		}
	}
	if len(c.Parts) > maxParts {
		return c, fmt.Errorf("it is to have %d files, and may have %d", len(c.Parts), maxParts)
	}
	return c, nil
}

// end makes sure that nothing comes any more.
func (r *reader) end() error {
	entry, err := r.tar.Next()
	if err == nil {
		return fmt.Errorf("it has %q, which is no part of it", entry.Name)
	}
	if !errors.Is(err, io.EOF) {
		return err
	}
	n, err := io.CopyN(io.Discard, r.plain, 1)
	if n > 0 {
		return errors.New("it has something after its end")
	}
	if !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}
