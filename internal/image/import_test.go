package image

import (
	"context"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"

	"banger/internal/api"
	"banger/internal/image/oci/ocitest"
	"banger/internal/progress"
)

// TestPullOfAMovedTag has two that want what a tag means, for a VM, and the tag
// moves between their questions: they get one image, which stays.
func TestPullOfAMovedTag(t *testing.T) {
	t.Parallel()
	var moved atomic.Bool
	begun, asked := make(chan struct{}), make(chan struct{})
	begin, ask := sync.OnceFunc(func() { close(begun) }), sync.OnceFunc(func() { close(asked) })
	inner := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch blob := strings.Contains(r.URL.Path, "/blobs/"); {
		case r.Method != http.MethodGet:
		case blob && !moved.Load():
			begin()
			<-asked
		case !blob && moved.Load() && strings.Contains(r.URL.Path, "/manifests/"):
			ask()
		}
		inner.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	t.Cleanup(ask)
	reference := strings.TrimPrefix(server.URL, "http://") + "/team/tool:1"
	dir := t.TempDir()
	s, err := Open(filepath.Join(dir, "images"), Options{CacheDir: filepath.Join(dir, "cache")})
	if err != nil {
		t.Fatal(err)
	}
	ocitest.Push(t, reference, ocitest.Pack(t, "f file one"))
	var pulls sync.WaitGroup
	var first, second Image
	pull := func(got *Image) {
		defer begin() // or it failed before
		var err error
		if *got, err = s.Pull(t.Context(), reference, progress.Discard); err != nil {
			t.Error(err)
		}
	}
	pulls.Go(func() { pull(&first) })
	<-begun
	ocitest.Push(t, reference, ocitest.Pack(t, "f file two"))
	moved.Store(true)
	pull(&second)
	pulls.Wait()
	if first.Digest == "" || first.Digest != second.Digest {
		t.Errorf("got the images %q and %q", first.Digest, second.Digest)
	}
	if now, err := s.Get(first.Name); err != nil || now.Digest != first.Digest {
		t.Errorf("the name is that of %q by now, %v", now.Digest, err)
	}
}

// inUse is a guard of an image that a VM is being made from.
type inUse struct{ t *testing.T }

var errInUse = errors.New("a VM is being made from it")

func (inUse) Replaceable(string) error { return errInUse }

func (g inUse) ReplaceImage(context.Context, string, func() (string, error), func() error) error {
	g.t.Error("an image was made that could not be published")
	return errInUse
}

// TestPullOfAnImageInUse has a tag move while a VM is made from the image that
// it meant: nothing is downloaded for a pull that would be refused.
func TestPullOfAnImageInUse(t *testing.T) {
	t.Parallel()
	var blobs atomic.Int32
	inner := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") {
			blobs.Add(1)
		}
		inner.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	reference := strings.TrimPrefix(server.URL, "http://") + "/team/tool:1"
	dir := t.TempDir()
	s, err := Open(filepath.Join(dir, "images"), Options{CacheDir: filepath.Join(dir, "cache")})
	if err != nil {
		t.Fatal(err)
	}
	request, guard := api.Pull{Name: reference}, inUse{t}
	ocitest.Push(t, reference, ocitest.Pack(t, "f file one"))
	first, err := s.PullReference(t.Context(), request, guard, progress.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := s.PullReference(t.Context(), request, guard, progress.Discard); err != nil || again.Digest != first.Digest {
		t.Errorf("a tag that has not moved: %q, %v", again.Digest, err)
	}
	ocitest.Push(t, reference, ocitest.Pack(t, "f file two"))
	before := blobs.Load()
	_, err = s.PullReference(t.Context(), request, guard, progress.Discard)
	if err == nil || !strings.Contains(err.Error(), errInUse.Error()) {
		t.Errorf("error %v", err)
	}
	if n := blobs.Load() - before; n != 0 {
		t.Errorf("%d blobs were downloaded", n)
	}
}
