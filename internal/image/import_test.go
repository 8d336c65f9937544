package image

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
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

// twoOfOneName returns a store, and two references to a registry whose images
// would have one name in it.
func twoOfOneName(t *testing.T, registry http.Handler) (_ *Store, one, other string) {
	t.Helper()
	server := httptest.NewServer(registry)
	t.Cleanup(server.Close)
	host := strings.TrimPrefix(server.URL, "http://")
	one, other = host+"/a/b:1", host+"/a-b:1"
	ocitest.Push(t, one, ocitest.Pack(t, "f file one"))
	ocitest.Push(t, other, ocitest.Pack(t, "f file other"))
	dir := t.TempDir()
	s, err := Open(filepath.Join(dir, "images"), Options{CacheDir: filepath.Join(dir, "cache")})
	if err != nil {
		t.Fatal(err)
	}
	return s, one, other
}

// TestPullOfAnotherReference has two references that make one name.
func TestPullOfAnotherReference(t *testing.T) {
	t.Parallel()
	s, one, other := twoOfOneName(t, registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	first, err := s.Pull(t.Context(), one, progress.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := s.Pull(t.Context(), one, progress.Discard); err != nil || again.Digest != first.Digest {
		t.Errorf("the same again: got %q, %v", again.Digest, err)
	}
	for name, pull := range map[string]func() (Image, error){
		"for a VM": func() (Image, error) { return s.Pull(t.Context(), other, progress.Discard) },
		"by hand": func() (Image, error) {
			return s.PullReference(t.Context(), api.Pull{Name: other}, inUse{t}, progress.Discard)
		},
	} {
		got, err := pull()
		told, ok := errors.AsType[*api.Error](err)
		if !ok || told.Kind != api.KindExists || !strings.Contains(told.Message, one) || !strings.Contains(told.Hint, "--name NAME "+other) {
			t.Errorf("%s: got the image %q and the error %#v", name, got.Name, err)
		}
	}
	second, err := s.PullReference(t.Context(), api.Pull{Name: other, As: "other"}, inUse{t}, progress.Discard)
	if err != nil || second.Digest == first.Digest {
		t.Errorf("under a name of its own: got %q, %v", second.Digest, err)
	}
}

// TestPullsOfOneName has two references that make one name pulled at once: the
// second is refused before it downloads, and before what the first has made is
// kept for the VMs of it.
func TestPullsOfOneName(t *testing.T) {
	t.Parallel()
	begun, asked := make(chan struct{}), make(chan struct{})
	begin, ask := sync.OnceFunc(func() { close(begun) }), sync.OnceFunc(func() { close(asked) })
	inner := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	s, one, other := twoOfOneName(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		get := r.Method == http.MethodGet
		switch {
		case get && strings.HasPrefix(r.URL.Path, "/v2/a/b/blobs/"):
			begin()
			<-asked
		case get && strings.HasPrefix(r.URL.Path, "/v2/a-b/blobs/"):
			t.Error("the second was downloaded")
		}
		inner.ServeHTTP(w, r)
		if get && strings.HasPrefix(r.URL.Path, "/v2/a-b/manifests/") {
			ask()
		}
	}))
	t.Cleanup(ask)
	var pulls sync.WaitGroup
	pulls.Go(func() {
		defer begin() // or it failed before
		if _, err := s.PullReference(t.Context(), api.Pull{Name: one}, inUse{t}, progress.Discard); err != nil {
			t.Error(err)
		}
	})
	<-begun
	_, err := s.PullReference(t.Context(), api.Pull{Name: other}, inUse{t}, progress.Discard)
	if told, ok := errors.AsType[*api.Error](err); !ok || told.Kind != api.KindExists || !strings.Contains(told.Message, one) {
		t.Errorf("the second: %v", err)
	}
	pulls.Wait()
}

// TestPullOfWhatWasImported has an archive whose image has a short reference.
func TestPullOfWhatWasImported(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s, err := Open(filepath.Join(dir, "images"), Options{CacheDir: filepath.Join(dir, "cache")})
	if err != nil {
		t.Fatal(err)
	}
	layer := ocitest.Pack(t, "f file one")
	config := fmt.Sprintf(`{"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": ["sha256:%x"]}}`, sha256.Sum256(layer))
	archive := filepath.Join(dir, "saved.tar")
	saved := ocitest.Pack(t, `f manifest.json [{"Config": "c", "RepoTags": ["tiny:1"], "Layers": ["l"]}]`, "f c "+config, "f l "+string(layer))
	if err := os.WriteFile(archive, saved, 0o600); err != nil {
		t.Fatal(err)
	}
	imported, err := s.Import(t.Context(), api.Import{Path: archive}, progress.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := s.Pull(t.Context(), "tiny:1", progress.Discard); err != nil || got.Digest != imported.Digest {
		t.Errorf("got %q, %v", got.Digest, err)
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
