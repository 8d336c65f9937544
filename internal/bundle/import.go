package bundle

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"

	"golang.org/x/crypto/ssh"

	"banger/internal/api"
	"banger/internal/download"
	"banger/internal/objects"
	"banger/internal/progress"
	"banger/internal/space"
	"banger/internal/sparse"
	"banger/internal/streams"
)

// Request is for what a bundle has.
type Request struct {
	Kind string
	// Location is an absolute path, or a URL (https, or http to this host).
	Location string
	// Name is what it is to be called, if not as the bundle says.
	Name string
	// Digest is what it must have, if that is known.
	Digest string
	// Trusted are the keys whose signatures count. If there are any, a bundle
	// needs one of them.
	Trusted []ssh.PublicKey
	// Untrusted takes a bundle whoever has made it.
	Untrusted bool
	// Insecure allows http to other hosts.
	Insecure bool
}

// Import puts what a bundle has into the store. Check says what is wrong with
// the description of an object, before any part is unpacked. What is in the
// store already under that name, with that digest, is returned; with another
// one it is an error. Nothing is visible in the store before all of it is
// verified, and nothing stays of what is not whole. Errors are [api.Error],
// but for what is [ErrNoBundle].
func Import[M any](ctx context.Context, store *objects.Store[M], request Request, check func(objects.Contents[M]) error, report progress.Func) (objects.Object[M], error) {
	object, err := importBundle(ctx, store, request, check, report)
	if err != nil {
		verb := "import"
		if IsURL(request.Location) {
			verb = "pull"
		}
		return objects.Object[M]{}, explain(verb, redacted(request.Location), err)
	}
	return object, nil
}

func importBundle[M any](ctx context.Context, store *objects.Store[M], request Request, check func(objects.Contents[M]) error, report progress.Func) (none objects.Object[M], err error) {
	signature, err := request.signature(ctx)
	if err != nil {
		return none, err
	}
	stream, length, err := request.open(ctx)
	if err != nil {
		return none, err
	}
	defer func() { err = errors.Join(err, stream.Close()) }()
	count := &streams.Counter{Text: "unpacking", Total: max(length, 0), Report: report}
	plain, err := decompress(ctx, io.TeeReader(stream, count))
	if err != nil {
		return none, err
	}
	defer plain.Close()
	r, err := newReader(plain)
	if err != nil {
		return none, err
	}
	signer, err := r.verify(request, signature)
	if err != nil {
		return none, err
	}
	found, err := contents[M](r)
	if err != nil {
		return none, err
	}
	if err := check(found); err != nil {
		return none, err
	}
	name := request.Name
	if name == "" {
		name = r.header.Name
	}
	report.Step("unpacking")
	origin := objects.Origin{From: redacted(request.Location), SignedBy: signer}
	object, err := store.Import(ctx, name, r.header.Digest, origin, func(ctx context.Context, dir string) (M, error) {
		if err := space.Need(dir, r.header.Disk); err != nil {
			return found.Manifest, err
		}
		return found.Manifest, r.unpackAll(ctx, found.Parts, dir)
	})
	if errors.Is(err, objects.ErrTaken) {
		return none, &api.Error{
			Kind: api.KindExists, Message: fmt.Sprintf("there is another %s %q", request.Kind, name),
			Hint: fmt.Sprintf("give it another name with --name, or delete that one: banger %s delete %s", request.Kind, name),
		}
	}
	return object, err
}

// redacted is a location as it is stored and shown.
func redacted(location string) string {
	if address, err := url.Parse(location); err == nil && IsURL(location) {
		return download.Redacted(address)
	}
	return location
}

// Received is an origin as told to users; nil if nothing is known of one.
func Received(origin objects.Origin) *api.Received {
	if origin.From == "" {
		return nil
	}
	return &api.Received{From: origin.From, SignedBy: origin.SignedBy}
}

// verify tells whether this is what was asked for, and returns who has signed
// it, if that was looked at.
func (r *reader) verify(request Request, signature []byte) (signer string, err error) {
	if r.header.Kind != request.Kind {
		return "", &api.Error{
			Kind: api.KindUsage, Message: fmt.Sprintf("it is not of a kind %q but %q", request.Kind, r.header.Kind),
			Hint: fmt.Sprintf("banger %s import, or pull", r.header.Kind),
		}
	}
	want := request.Digest
	if named := digestInName.FindStringSubmatch(filepath.Base(pathOf(request.Location))); want == "" && named != nil {
		want = "sha256:" + named[1]
	}
	if want != "" && r.header.Digest != want {
		return "", &api.Error{Kind: api.KindState, Message: fmt.Sprintf("its digest is %s and should be %s", r.header.Digest, want)}
	}
	if request.Untrusted {
		return "", nil
	}
	return trust(r.signed, signature, request.Trusted)
}

// unpackAll writes what there is after the manifest, which must be these parts.
func (r *reader) unpackAll(ctx context.Context, parts []objects.Part, dir string) error {
	for _, part := range parts {
		if err := r.unpack(ctx, part, dir); err != nil {
			return err
		}
	}
	return r.end()
}

// unpack writes the next part, which must be the one that is given. Blocks of
// zeros become holes.
func (r *reader) unpack(ctx context.Context, part objects.Part, dir string) (err error) {
	entry, err := r.next(part.Path)
	if err != nil {
		return err
	}
	if entry.Size != part.Size {
		return fmt.Errorf("its %q has %d bytes and should have %d", part.Path, entry.Size, part.Size)
	}
	place := filepath.Join(dir, filepath.FromSlash(part.Path))
	if err := os.MkdirAll(filepath.Dir(place), 0o700); err != nil {
		return err
	}
	file, err := os.OpenFile(place, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	hash := sha256.New()
	// The context is looked at here too: holes of a sparse entry are read from nothing.
	if _, err := io.CopyBuffer(io.MultiWriter(hash, sparse.NewWriter(file)), streams.Until(ctx, r.tar), make([]byte, 1<<20)); err != nil {
		return fmt.Errorf("cannot unpack %q: %w", part.Path, err)
	}
	if digest := hex.EncodeToString(hash.Sum(nil)); digest != part.SHA256 {
		return fmt.Errorf("the digest of its %q is %s and should be %s", part.Path, digest, part.SHA256)
	}
	return file.Truncate(part.Size)
}

// explain tells the user what went wrong.
func explain(verb, what string, err error) error {
	if errors.Is(err, ErrNoBundle) && !IsURL(what) {
		return err
	}
	shown := &api.Error{Kind: api.KindInternal, Message: fmt.Sprintf("cannot %s %q: %v", verb, what, err)}
	if known, ok := errors.AsType[*api.Error](err); ok {
		shown.Kind, shown.Hint = known.Kind, known.Hint
		return shown
	}
	switch {
	case errors.Is(err, context.Canceled):
		return &api.Error{Kind: api.KindCanceled, Message: fmt.Sprintf("cannot %s %q: canceled", verb, what)}
	case space.IsFull(err):
		shown.Kind, shown.Hint = api.KindNoSpace, space.Hint
	case errors.Is(err, fs.ErrNotExist):
		shown.Kind = api.KindNotFound
	case errors.Is(err, objects.ErrBadName):
		shown.Kind = api.KindUsage
	}
	return shown
}
