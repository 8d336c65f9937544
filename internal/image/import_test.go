package image

import (
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
