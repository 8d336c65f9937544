package oci

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"banger/internal/image/oci/ocitest"
	"banger/internal/progress"
)

func TestPull(t *testing.T) {
	t.Parallel()
	layer := ocitest.Pack(t, "f a one")
	digest := layerOf(layer).Digest
	var fetched atomic.Int32
	inner := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, digest) {
			fetched.Add(1)
		}
		inner.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	tag := strings.TrimPrefix(server.URL, "http://") + "/team/tool:1"
	ocitest.Push(t, tag, layer)
	ref, err := ParseReference(tag, false)
	if err != nil {
		t.Fatal(err)
	}
	blobs := OpenBlobs(t.TempDir())
	var pulls sync.WaitGroup
	for range 10 {
		pulls.Go(func() {
			found, err := Resolve(t.Context(), ref, false)
			if err != nil {
				t.Error(err)
				return
			}
			image, err := found.Fetch(t.Context(), blobs, progress.Discard)
			if err != nil {
				t.Error(err)
				return
			}
			defer image.Close()
			if got, err := flat(t, image.Layers...); err != nil || got["a"] != "one" {
				t.Errorf("got %v, %v", got, err)
			}
		})
	}
	pulls.Wait()
	if n := fetched.Load(); n != 1 {
		t.Errorf("the layer was fetched %d times", n)
	}
	before, err := Resolve(t.Context(), ref, false)
	if err != nil {
		t.Fatal(err)
	}
	ocitest.Push(t, tag, ocitest.Pack(t, "f a two"))
	after, err := Resolve(t.Context(), ref, false)
	if err != nil {
		t.Fatal(err)
	}
	if before.Digest == after.Digest {
		t.Error("the tag has moved, and it was not seen")
	}
}

func TestFetchResumes(t *testing.T) {
	t.Parallel()
	content := bytes.Repeat([]byte("content "), 1000)
	digest, size := layerOf(content).Digest, int64(len(content))
	blobs := OpenBlobs(t.TempDir())
	var offsets []int64
	get := func(_ context.Context, offset int64) (io.ReadCloser, error) {
		offsets = append(offsets, offset)
		rest := content[offset:]
		if len(offsets) == 1 { // breaks off
			rest = rest[:100]
		}
		return io.NopCloser(bytes.NewReader(rest)), nil
	}
	file, err := blobs.Fetch(t.Context(), digest, size, get, func(int64) {})
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if len(offsets) != 2 || offsets[1] != 100 {
		t.Errorf("it was asked for from %v on", offsets)
	}
	if got, err := io.ReadAll(file); err != nil || !bytes.Equal(got, content) {
		t.Errorf("got %d bytes, %v", len(got), err)
	}
	if n, freed, err := blobs.Prune(false); n != 1 || freed == 0 || err != nil {
		t.Errorf("pruned %d blobs of %d bytes, %v", n, freed, err)
	}
	if _, err := blobs.Open(digest); !os.IsNotExist(err) {
		t.Errorf("after the prune: %v", err)
	}
}

func TestFetchWrongDigest(t *testing.T) {
	t.Parallel()
	blobs := OpenBlobs(t.TempDir())
	digest := sha256Prefix + strings.Repeat("a", 64)
	_, err := blobs.Fetch(t.Context(), digest, 3, func(context.Context, int64) (io.ReadCloser, error) {
		return io.NopCloser(strings.NewReader("bad")), nil
	}, func(int64) {})
	if err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("got error %v", err)
	}
	if n, _, err := blobs.Prune(true); n != 0 || err != nil {
		t.Errorf("%d blobs are left, %v", n, err)
	}
}

// TestEndlessManifest has a registry that does not stop talking.
func TestEndlessManifest(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/v2/" {
			return
		}
		w.Header().Set("Content-Type", string(types.OCIManifestSchema1))
		chunk := bytes.Repeat([]byte(" "), 64<<10)
		for sent := 0; sent < 4*maxManifest; sent += len(chunk) {
			if _, err := w.Write(chunk); err != nil {
				return
			}
		}
	}))
	t.Cleanup(server.Close)
	ref, err := ParseReference(strings.TrimPrefix(server.URL, "http://")+"/team/tool:1", false)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Resolve(t.Context(), ref, false); !errors.Is(err, ErrTooLarge) {
		t.Errorf("got error %.300v", err)
	}
}
