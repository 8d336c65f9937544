package vm

import (
	"bytes"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"banger/internal/api"
	"banger/internal/vmm"
)

func TestBoundLog(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "console.log")
	if err := boundLog(path, 4); err != nil {
		t.Errorf("a missing log: %v", err)
	}
	log, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	for _, step := range []struct{ add, want string }{
		{"1234", "1234"},
		{"5", ""},
		{"67", "67"}, // and without a hole before it
	} {
		if _, err := log.WriteString(step.add); err != nil {
			t.Fatal(err)
		}
		if err := boundLog(path, 4); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != step.want {
			t.Errorf("after %q it has %q, want %q", step.add, got, step.want)
		}
	}
}

func TestCutLog(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "vmm.log")
	if err := cutLog(path, 1<<20); err != nil {
		t.Errorf("a missing log: %v", err)
	}
	const size, limit = 3 << 20, 1 << 20
	if err := os.WriteFile(path, bytes.Repeat([]byte("x"), size), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := cutLog(path, 4*size); err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(path); err != nil || data[0] != 'x' {
		t.Errorf("a short log was cut: %v", err)
	}
	err := cutLog(path, limit)
	if errors.Is(err, unix.EOPNOTSUPP) {
		t.Skipf("this file system has no holes: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil || len(data) != size || data[0] != 0 || data[size-limit/4] != 'x' {
		t.Errorf("%d bytes, %v", len(data), err)
	}
	var stat unix.Stat_t
	if err := unix.Stat(path, &stat); err != nil || stat.Blocks*512 > limit {
		t.Errorf("it takes %d bytes, %v", stat.Blocks*512, err)
	}
}

// A guest that has halted is ended; one that only says so is not.
func TestHalted(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	var dead atomic.Bool
	h.fake.Handle(func(_ vmm.Spec, agent http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if dead.Load() {
				panic(http.ErrAbortHandler)
			}
			agent.ServeHTTP(w, r)
		})
	})
	vm := h.create(t, api.CreateVM{Name: "one", Start: true})
	e, err := h.resolve("one")
	if err != nil {
		t.Fatal(err)
	}
	machine := h.look(e).machine
	for _, step := range []struct {
		console string
		dead    bool
		ended   bool
	}{
		{"[  1.2] reboot: System halted\r\n", false, false},
		{"[  1.2] reboot: System halted\r\nlogin:", true, false},
		{"[  1.2] reboot: Power off not available: System halted instead\r\n", true, true},
	} {
		if err := os.WriteFile(consoleLog(vm.Dir), []byte(step.console), 0o600); err != nil {
			t.Fatal(err)
		}
		dead.Store(step.dead)
		h.lookAfter(t.Context(), "one", vm.Dir, machine)
		if ended := len(h.fake.Running()) == 0; ended != step.ended {
			t.Errorf("after %q, with the guest dead %v: ended is %v", step.console, step.dead, ended)
		}
	}
	eventually(t, "it is stopped", func() bool { vm, err := h.Get("one"); return err == nil && vm.State == api.StateStopped })
}
