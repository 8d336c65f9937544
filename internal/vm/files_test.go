package vm

import (
	"archive/tar"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"banger/internal/api"
	"banger/internal/config"
	"banger/internal/progress"
	"banger/internal/vmm"
)

// uploads is what guests got.
type uploads struct {
	mu    sync.Mutex
	names []string
	fail  bool
}

func (u *uploads) wrap(_ vmm.Spec, agent http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPut || r.URL.Path != "/v1/files" {
			agent.ServeHTTP(w, r)
			return
		}
		u.mu.Lock()
		defer u.mu.Unlock()
		if u.fail {
			w.WriteHeader(http.StatusInternalServerError)
			_, _ = io.WriteString(w, `{"kind":"internal","message":"no space in the guest"}`)
			return
		}
		reader := tar.NewReader(r.Body)
		for {
			h, err := reader.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				w.WriteHeader(http.StatusBadRequest)
				return
			}
			u.names = append(u.names, r.URL.Query().Get("path")+"/"+h.Name)
		}
		w.WriteHeader(http.StatusNoContent)
	})
}

func (u *uploads) want(t *testing.T, want ...string) {
	t.Helper()
	u.mu.Lock()
	defer u.mu.Unlock()
	if !slices.Equal(u.names, want) {
		t.Errorf("uploaded %q, want %q", u.names, want)
	}
}

// newSyncHarness syncs a file that is there and one that is not.
func newSyncHarness(t *testing.T) (*harness, *uploads) {
	t.Helper()
	host := filepath.Join(t.TempDir(), "netrc")
	if err := os.WriteFile(host, []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	h := newHarness(t, func(c *Config) {
		load := c.Load
		c.Load = func() (config.Config, error) {
			settings, err := load()
			settings.FileSync = []config.FileSync{{Host: host, Guest: "/root/.netrc", Mode: 0o600}, {Host: host + ".none", Guest: "/root/none"}}
			return settings, err
		}
	})
	var u uploads
	h.fake.Handle(u.wrap)
	return h, &u
}

func TestFilesAreSyncedOnce(t *testing.T) {
	t.Parallel()
	h, u := newSyncHarness(t)
	h.create(t, api.CreateVM{Name: "box"})
	u.want(t)
	var warnings []string
	report := func(e progress.Event) {
		if e.Warning {
			warnings = append(warnings, e.Text)
		}
	}
	for range 2 {
		if _, err := h.Start(t.Context(), "box", report); err != nil {
			t.Fatal(err)
		}
		if _, err := h.Kill(t.Context(), "box"); err != nil {
			t.Fatal(err)
		}
	}
	u.want(t, "/root/.netrc")
	if len(warnings) != 1 || !strings.Contains(warnings[0], "netrc.none") {
		t.Errorf("warnings %q", warnings)
	}
}

func TestFilesThatCannotBeSyncedFailTheStart(t *testing.T) {
	t.Parallel()
	h, u := newSyncHarness(t)
	u.fail = true
	_, err := h.Create(t.Context(), api.CreateVM{Name: "box", Start: true}, progress.Discard)
	wantKind(t, err, api.KindState)
	if err == nil || !strings.Contains(err.Error(), "no space in the guest") {
		t.Errorf("error %v", err)
	}
	h.wantState(t, "box", api.StateStopped)
	u.mu.Lock()
	u.fail = false
	u.mu.Unlock()
	if _, err := h.Start(t.Context(), "box", progress.Discard); err != nil {
		t.Fatal(err)
	}
	u.want(t, "/root/.netrc")
}

// Wherever bangerd is killed, the files are there once a start is complete.
func TestFilesAreSyncedOverCrashes(t *testing.T) {
	t.Parallel()
	for n := 0; ; n++ {
		h, u := newSyncHarness(t)
		h.create(t, api.CreateVM{Name: "box"})
		whole := !h.killedAt(t, n, func() { _, _ = h.Start(t.Context(), "box", progress.Discard) })
		if _, err := h.Start(t.Context(), "box", progress.Discard); err != nil {
			t.Fatal(err)
		}
		u.mu.Lock()
		if !slices.Contains(u.names, "/root/.netrc") {
			t.Errorf("killed at write %d: nothing was uploaded", n)
		}
		u.mu.Unlock()
		if whole {
			if n == 0 {
				t.Error("a start writes nothing")
			}
			return
		}
	}
}
