package image

import (
	"archive/tar"
	"bytes"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"banger/internal/progress"
)

// pushFile gives a reference in a registry an image that has one file.
func pushFile(t *testing.T, reference, content string) {
	t.Helper()
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	if err := w.WriteHeader(&tar.Header{Name: "file", Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(content))}); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, content); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	image, err := mutate.ConfigFile(empty.Image, &v1.ConfigFile{OS: "linux", Architecture: "amd64", RootFS: v1.RootFS{Type: "layers"}})
	if err == nil {
		image, err = mutate.AppendLayers(image, static.NewLayer(layer.Bytes(), types.OCIUncompressedLayer))
	}
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := name.ParseReference(reference)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(parsed, image); err != nil {
		t.Fatal(err)
	}
}

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
	pushFile(t, reference, "one")
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
	pushFile(t, reference, "two")
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
