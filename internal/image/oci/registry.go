package oci

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"golang.org/x/sync/errgroup"

	"banger/internal/progress"
)

// atOnce is how many layers of an image are downloaded, or unpacked, side by
// side.
const atOnce = 3

// Errors that a registry answers with, in the error chain.
var (
	ErrUnauthorized = errors.New("the registry does not let you have it")
	ErrUnknown      = errors.New("the registry does not have it")
	ErrPlainHTTP    = errors.New("the registry would have to be spoken to without TLS")
)

// Remote is an image in a registry, as its manifest describes it.
type Remote struct {
	Reference Reference
	Digest    string // of the manifest of the image for this platform

	manifest manifest
	client   *http.Client
	base     string
}

// Resolve asks the registry what the reference means now. Credentials are those
// of docker and podman: their configuration files, and credential helpers.
func Resolve(ctx context.Context, ref Reference, insecure bool) (*Remote, error) {
	repository := ref.ref.Context()
	auth, err := authn.Resolve(ctx, keychain, repository)
	if err != nil {
		return nil, fmt.Errorf("cannot get the credentials for %q: %w", repository.RegistryStr(), err)
	}
	base := http.DefaultTransport.(*http.Transport).Clone() //nolint:forcetypeassert // it is one
	base.ResponseHeaderTimeout = time.Minute
	tripper, err := transport.NewWithContext(ctx, repository.Registry, auth, &guard{base, insecure}, []string{repository.Scope(transport.PullScope)})
	if err != nil {
		return nil, registryError(err)
	}
	r := &Remote{
		Reference: ref, client: &http.Client{Transport: tripper},
		base: repository.Scheme() + "://" + repository.RegistryStr() + "/v2/" + repository.RepositoryStr() + "/blobs/",
	}
	options := []remote.Option{remote.WithContext(ctx), remote.WithTransport(tripper)}
	at := ref.ref
	const maxDepth = 3 // of indexes of indexes
	for range maxDepth {
		got, err := remote.Get(at, options...)
		if err != nil {
			return nil, registryError(err)
		}
		if r.manifest, err = parseManifest(got.Manifest); err != nil {
			return nil, err
		}
		if !r.manifest.isIndex() {
			r.Digest = got.Digest.String()
			return r, checkDigest(r.Digest)
		}
		chosen, err := r.manifest.choose()
		if err != nil {
			return nil, err
		}
		at = repository.Digest(chosen.Digest)
	}
	return nil, errors.New("its index leads to indexes only")
}

// guard refuses to speak without TLS to hosts other than this one, and bounds
// all answers but blobs, which are written to disk.
type guard struct {
	inner    http.RoundTripper
	insecure bool
}

// blobKey is set in the context of requests for blobs.
type blobKey struct{}

func (g *guard) RoundTrip(request *http.Request) (*http.Response, error) {
	if request.URL.Scheme != "https" && !g.insecure && !isLoopback(request.URL.Hostname()) {
		return nil, fmt.Errorf("%w: %s", ErrPlainHTTP, request.URL.Host)
	}
	response, err := g.inner.RoundTrip(request)
	if err == nil && request.Context().Value(blobKey{}) == nil {
		response.Body = &boundedBody{response.Body, maxManifest}
	}
	return response, err
}

// boundedBody fails after left bytes.
type boundedBody struct {
	io.ReadCloser
	left int64
}

func (b *boundedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return 0, tooLarge("the registry's answer has more than %d MiB", maxManifest>>20)
	}
	return n, err
}

// registryError sorts a registry's answers.
func registryError(err error) error {
	if answer, ok := errors.AsType[*transport.Error](err); ok {
		switch answer.StatusCode {
		case http.StatusUnauthorized, http.StatusForbidden:
			return fmt.Errorf("%w: %w", ErrUnauthorized, err)
		case http.StatusNotFound:
			return fmt.Errorf("%w: %w", ErrUnknown, err)
		}
	}
	return err
}

// Missing returns how many bytes have yet to be downloaded into the cache.
func (r *Remote) Missing(blobs *Blobs) int64 {
	var n int64
	seen := map[string]bool{}
	for _, d := range r.manifest.Layers {
		if !seen[d.Digest] {
			seen[d.Digest] = true
			n += blobs.Missing(d.Digest, d.Size)
		}
	}
	return n
}

// Fetch downloads what the cache does not have. The image is to be closed.
func (r *Remote) Fetch(ctx context.Context, blobs *Blobs, report progress.Func) (_ *Image, err error) {
	data, err := r.config(ctx, blobs)
	if err != nil {
		return nil, err
	}
	config, err := parseConfig(data)
	if err != nil {
		return nil, err
	}
	total := r.Missing(blobs)
	files := &openFiles{byDigest: map[string]*os.File{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, files.close())
		}
	}()
	meter := &meter{report: report, total: total}
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(atOnce)
	image := &Image{
		Reference: r.Reference.String(), Digest: r.Digest, Kind: "registry",
		Config: config.public(), Created: config.Created, close: files.close,
	}
	for _, d := range r.manifest.Layers {
		image.Layers = append(image.Layers, Layer{
			Digest: d.Digest, Size: d.Size,
			Open: func() (io.ReadCloser, error) { return files.open(d.Digest) },
		})
		if !files.reserve(d.Digest) {
			continue
		}
		group.Go(func() error {
			file, err := blobs.Fetch(groupCtx, d.Digest, d.Size, r.getter(d), meter.add)
			if err != nil {
				return fmt.Errorf("cannot download the layer %s: %w", d.Digest, err)
			}
			files.set(d.Digest, file)
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	return image, nil
}

func (r *Remote) config(ctx context.Context, blobs *Blobs) ([]byte, error) {
	d := r.manifest.Config
	file, err := blobs.Fetch(ctx, d.Digest, d.Size, r.getter(d), func(int64) {})
	if err != nil {
		return nil, fmt.Errorf("cannot download the image's config: %w", err)
	}
	defer file.Close()
	return io.ReadAll(io.LimitReader(file, maxConfig))
}

// getter asks the registry for a blob. Only the registry's own place of it is
// used, never one that the manifest names.
func (r *Remote) getter(d descriptor) getFunc {
	return func(ctx context.Context, offset int64) (io.ReadCloser, error) {
		request, err := http.NewRequestWithContext(context.WithValue(ctx, blobKey{}, true), http.MethodGet, r.base+d.Digest, nil)
		if err != nil {
			return nil, err
		}
		if offset > 0 {
			request.Header.Set("Range", "bytes="+strconv.FormatInt(offset, 10)+"-")
		}
		response, err := r.client.Do(request)
		if err != nil {
			return nil, err
		}
		switch {
		case response.StatusCode == http.StatusOK && offset == 0:
			return response.Body, nil
		case response.StatusCode == http.StatusPartialContent && offset > 0 && strings.HasPrefix(response.Header.Get("Content-Range"), "bytes "+strconv.FormatInt(offset, 10)+"-"):
			return response.Body, nil
		}
		defer response.Body.Close()
		switch response.StatusCode {
		case http.StatusOK, http.StatusPartialContent, http.StatusRequestedRangeNotSatisfiable:
			if offset > 0 {
				return nil, errRestart
			}
		case http.StatusUnauthorized, http.StatusForbidden:
			return nil, permanentError{fmt.Errorf("%w: %s", ErrUnauthorized, response.Status)}
		case http.StatusNotFound:
			return nil, permanentError{fmt.Errorf("%w: %s", ErrUnknown, response.Status)}
		}
		return nil, fmt.Errorf("the registry answers %s", response.Status)
	}
}

// openFiles are the layers of an image, each opened once: they stay readable
// when the cache is pruned.
type openFiles struct {
	mu       sync.Mutex
	byDigest map[string]*os.File
}

func (f *openFiles) reserve(digest string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	_, there := f.byDigest[digest]
	if !there {
		f.byDigest[digest] = nil
	}
	return !there
}

func (f *openFiles) set(digest string, file *os.File) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.byDigest[digest] = file
}

func (f *openFiles) open(digest string) (io.ReadCloser, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	file := f.byDigest[digest]
	if file == nil {
		return nil, fmt.Errorf("the layer %s is not open", digest)
	}
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	return io.NopCloser(io.NewSectionReader(file, 0, info.Size())), nil
}

func (f *openFiles) close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	var errs []error
	for digest, file := range f.byDigest {
		if file != nil {
			errs = append(errs, file.Close())
		}
		delete(f.byDigest, digest)
	}
	return errors.Join(errs...)
}

// meter reports how much has been downloaded.
type meter struct {
	report progress.Func
	total  int64
	done   atomic.Int64
	shown  atomic.Int64
}

func (m *meter) add(n int64) {
	const often = 4 << 20
	done := m.done.Add(n)
	if shown := m.shown.Load(); done-shown >= often && m.shown.CompareAndSwap(shown, done) {
		m.report(progress.Event{Text: "downloading the layers", Done: min(done, m.total), Total: m.total, Bytes: true})
	}
}
