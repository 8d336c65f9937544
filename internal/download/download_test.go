package download

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"banger/internal/api"
)

func read(ctx context.Context, address string) ([]byte, error) {
	f, _, err := Open(ctx, address, false)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(f)
}

// broken is a server that ends each answer after some bytes.
func broken(t *testing.T, content []byte, after int, ranges bool, etag func() string) (string, *atomic.Int32) {
	t.Helper()
	var asked atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		w.Header().Set("ETag", etag())
		if !ranges {
			r.Header.Del("Range")
		}
		http.ServeContent(&cutting{w, after}, r, "x", time.Time{}, bytes.NewReader(content))
	}))
	t.Cleanup(server.Close)
	return server.URL + "/x", &asked
}

type cutting struct {
	http.ResponseWriter
	left int
}

func (c *cutting) Write(p []byte) (int, error) {
	if len(p) > c.left {
		if _, err := c.ResponseWriter.Write(p[:c.left]); err != nil {
			return 0, err
		}
		c.ResponseWriter.(http.Flusher).Flush() //nolint:forcetypeassert // net/http's is one
		panic(http.ErrAbortHandler)
	}
	c.left -= len(p)
	return c.ResponseWriter.Write(p)
}

func TestGoesOnWhereItBrokeOff(t *testing.T) {
	t.Parallel()
	content := bytes.Repeat([]byte("0123456789"), 100_000)
	address, asked := broken(t, content, 300_000, true, func() string { return `"1"` })
	got, err := read(t.Context(), address)
	if err != nil || !bytes.Equal(got, content) {
		t.Errorf("got %d bytes, %v", len(got), err)
	}
	if n := asked.Load(); n != 4 {
		t.Errorf("asked %d times", n)
	}
	address, _ = broken(t, content, 300_000, false, func() string { return `"1"` })
	if got, err := read(t.Context(), address); err == nil {
		t.Errorf("without ranges: got %d bytes", len(got))
	}
	var version atomic.Int32
	address, _ = broken(t, content, 300_000, true, func() string { return `"` + strconv.Itoa(int(version.Add(1))) + `"` })
	if got, err := read(t.Context(), address); err == nil {
		t.Errorf("of a file that changes: got %d bytes", len(got))
	}
	address, _ = broken(t, content, 0, true, func() string { return `"1"` })
	if got, err := read(t.Context(), address); err == nil {
		t.Errorf("where nothing comes: got %d bytes", len(got))
	}
}

func TestWhatIsRefused(t *testing.T) {
	t.Parallel()
	mux := http.NewServeMux()
	mux.HandleFunc("/gone", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusGone) })
	mux.HandleFunc("/error", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) })
	mux.HandleFunc("/away", func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, "http://192.0.2.1/x", http.StatusFound)
	})
	mux.HandleFunc("/circle", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/circle", http.StatusFound) })
	mux.HandleFunc("/ten", func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "0123456789") })
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	for address, want := range map[string]string{
		"http://192.0.2.1/x":   "without TLS",
		server.URL + "/away":   "without TLS",
		server.URL + "/error":  "500",
		server.URL + "/circle": "without an end",
		"ftp://127.0.0.1/x":    "not an https URL",
		"https:///x":           "not an https URL",
		"https://[::1/x":       "missing ']'",
	} {
		if _, err := read(t.Context(), address+"?signature=secret"); err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: %v, want %q and no secret", address, err, want)
		}
	}
	_, err := read(t.Context(), "http://192.0.2.1/x")
	if told, ok := errors.AsType[*api.Error](err); !ok || !strings.Contains(told.Hint, "--insecure") {
		t.Errorf("without TLS: %v", err)
	}
	if _, err := read(t.Context(), server.URL+"/gone?secret"); !errors.Is(err, fs.ErrNotExist) || strings.Contains(err.Error(), "secret") {
		t.Errorf("gone: %v", err)
	}
	if data, err := Read(t.Context(), server.URL+"/ten", false, 10); err != nil || len(data) != 10 {
		t.Errorf("ten of ten: %q, %v", data, err)
	}
	if _, err := Read(t.Context(), server.URL+"/ten?secret", false, 9); err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("ten of nine: %v", err)
	}
}

func TestCanceled(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "some")
		w.(http.Flusher).Flush() //nolint:forcetypeassert // net/http's is one
		<-release
	}))
	t.Cleanup(server.Close)
	t.Cleanup(func() { close(release) })
	ctx, cancel := context.WithCancel(t.Context())
	f, length, err := Open(ctx, server.URL, false)
	if err != nil || length != -1 {
		t.Fatalf("length %d, %v", length, err)
	}
	defer f.Close()
	if n, err := f.Read(make([]byte, 10)); n != 4 || err != nil {
		t.Fatalf("read %d, %v", n, err)
	}
	cancel()
	if _, err := f.Read(make([]byte, 10)); !errors.Is(err, context.Canceled) {
		t.Errorf("read: %v", err)
	}
}
