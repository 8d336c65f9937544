package cgroup

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"banger/internal/confine"
	"banger/internal/vmm/process"
	"banger/internal/vmm/process/processtest"
)

// host makes the files of one below a directory; a name that ends with a slash
// is an empty directory.
func host(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		path := filepath.Join(root, name)
		dir := path
		if !strings.HasSuffix(name, "/") {
			dir = filepath.Dir(path)
		}
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if dir != path {
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	return root
}

func TestManager(t *testing.T) {
	t.Parallel()
	const unified = "sys/fs/cgroup/cgroup.controllers"
	const session = "4:memory:/other\n0::/user.slice/user-1000.slice/session-3.scope\n"
	for _, test := range []struct {
		name  string
		uid   int
		files map[string]string
		bus   string
		want  string // in the error
	}{
		{"no systemd", 1000, nil, "", "does not run here"},
		{"cgroups of version 1", 0, map[string]string{"run/systemd/system/": ""}, "", "version 2"},
		{"root", 0, map[string]string{"run/systemd/system/": "", unified: ""}, "run/dbus/system_bus_socket", ""},
		{"a user without one", 1000, map[string]string{"run/systemd/system/": "", unified: ""}, "", "the user has no systemd"},
		{"one that ends with the session", 1000, map[string]string{
			"run/systemd/system/": "", unified: "", "run/user/1000/bus": "", "proc/self/cgroup": session, "var/lib/systemd/linger/other": "",
		}, "", "enable-linger"},
		{"one that goes on", 1000, map[string]string{
			"run/systemd/system/": "", unified: "", "run/user/1000/bus": "", "proc/self/cgroup": session, "var/lib/systemd/linger/user": "",
		}, "run/user/1000/bus", ""},
		{"one that this runs in", 1000, map[string]string{
			"run/systemd/system/": "", unified: "", "run/user/1000/bus": "", "proc/self/cgroup": "0::/user.slice/user-1000.slice/user@1000.service/app.slice/x.scope\n",
		}, "run/user/1000/bus", ""},
	} {
		root := host(t, test.files)
		address, err := manager(root, test.uid, "user")
		if test.want != "" {
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("%s: %q, %v, want %q", test.name, address, err, test.want)
			}
			continue
		}
		if want := "unix:path=" + filepath.Join(root, test.bus); err != nil || address != want {
			t.Errorf("%s: %q, %v, want %q", test.name, address, err, want)
		}
	}
}

// TestSettle has a directory in place of a scope.
func TestSettle(t *testing.T) {
	t.Parallel()
	scope := host(t, map[string]string{"cgroup.procs": "7\n8\n", "cgroup.subtree_control": ""})
	if err := settle(t.Context(), scope); err != nil {
		t.Fatal(err)
	}
	leaf, err := makeLeaf(scope, "x", Limits{MemoryBytes: 1 << 30, Threads: 99})
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		filepath.Join(scope, ownLeaf, "cgroup.procs"):  "8",
		filepath.Join(scope, "cgroup.subtree_control"): "+memory +pids",
		filepath.Join(leaf, "memory.max"):              "1073741824",
		filepath.Join(leaf, "pids.max"):                "99",
	} {
		if got, err := os.ReadFile(path); err != nil || string(got) != want {
			t.Errorf("%s has %q, %v", path, got, err)
		}
	}
}

func TestSweep(t *testing.T) {
	t.Parallel()
	slice := host(t, map[string]string{
		"banger-1-1.scope/bangerd/cgroup.procs": "", "banger-1-1.scope/vm-ended/": "", "banger-1-1.scope/vm-runs/x": "",
		"banger-2-2.scope/bangerd/cgroup.procs": "2\n", "banger-2-2.scope/vm-starts/": "",
		"banger-3-3.scope/vm-x/": "", "other.scope/bangerd/cgroup.procs": "", "other.scope/vm-x/": "",
	})
	sweep(slice)
	left, err := filepath.Glob(filepath.Join(slice, "*/vm-*"))
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"banger-1-1.scope/vm-runs", "banger-2-2.scope/vm-starts", "banger-3-3.scope/vm-x", "other.scope/vm-x"}
	for i, name := range want {
		want[i] = filepath.Join(slice, name)
	}
	if diff := cmp.Diff(want, left); diff != "" {
		t.Errorf("left (-want +got):\n%s", diff)
	}
}

// run starts a shell's script in a cgroup and returns what it has said, and the
// layer's state.
func run(t *testing.T, scope *Scope, limits Limits, script string) (said string, on bool, detail string) {
	t.Helper()
	var layer confine.Layer
	said = processtest.Said(t, func(log *os.File) (child *process.Process, err error) {
		child, layer, err = scope.Start(t.Context(), "test", limits, process.Command{
			Path: "/bin/sh", Args: []string{"-c", script}, Env: []string{"PATH=" + os.Getenv("PATH")}, Log: log,
		})
		return child, err
	})
	return said, layer.On, layer.Detail
}

// TestWithout has programs start where there is no scope, or a cgroup cannot be
// used.
func TestWithout(t *testing.T) {
	t.Parallel()
	answered := make(chan struct{})
	close(answered)
	for name, scope := range map[string]*Scope{
		"none":           nil,
		"one that fails": {log: slog.New(slog.DiscardHandler), answered: answered, dir: filepath.Join(t.TempDir(), "not there")},
		"no cgroup":      {log: slog.New(slog.DiscardHandler), answered: answered, dir: t.TempDir()},
	} {
		said, on, detail := run(t, scope, Limits{MemoryBytes: 1 << 30, Threads: 99}, "echo it runs")
		if said != "it runs\n" || on || detail == "" {
			t.Errorf("%s: it says %q, on: %v, %q", name, said, on, detail)
		}
	}
}

// TestImpatient has who gives up wait for no systemd.
func TestImpatient(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancelCause(t.Context())
	gone := errors.New("gone")
	cancel(gone)
	scope := &Scope{log: slog.New(slog.DiscardHandler), answered: make(chan struct{})}
	if dir, err := scope.get(ctx); !errors.Is(err, gone) {
		t.Errorf("%q, %v", dir, err)
	}
}

// TestMute asks a systemd that does not say a word.
func TestMute(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "mute") //nolint:usetesting // short enough for a socket
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "bus")
	listener, err := new(net.ListenConfig).Listen(t.Context(), "unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	late := errors.New("late")
	ctx, cancel := context.WithTimeoutCause(t.Context(), 20*time.Millisecond, late)
	defer cancel()
	if _, err := enter(ctx, "unix:path="+path); !errors.Is(err, late) {
		t.Errorf("it says %v", err)
	}
}

// TestScope has systemd make a scope around this test: the lab runs it.
func TestScope(t *testing.T) {
	if _, err := thisManager(); err != nil {
		t.Skipf("NOT TESTED: %v", err)
	}
	scope := New(t.Context(), slog.New(slog.DiscardHandler))
	limits := Limits{MemoryBytes: 16 << 20, Threads: 5}
	own, on, detail := run(t, scope, limits, "cat /proc/self/cgroup")
	if !on || !strings.HasSuffix(strings.TrimSpace(own), detail[strings.Index(detail, "banger-"):len(detail)-1]) {
		t.Fatalf("it is in %q, on: %v, %q", own, on, detail)
	}
	if said, _, _ := run(t, scope, limits, "true | cat | cat | cat | cat | cat | cat | cat"); !strings.Contains(said, "fork") {
		t.Errorf("more threads than are allowed: %q", said)
	}
	if swaps, err := os.ReadFile("/proc/swaps"); err == nil && strings.Count(string(swaps), "\n") < 2 {
		if said, _, _ := run(t, scope, limits, "head -c 64M /dev/zero | tail >/dev/null; echo $?"); !strings.Contains(said, "137") {
			t.Errorf("more memory than is allowed: %q", said)
		}
	}
	deadline := time.Now().Add(time.Minute)
	for {
		leaves, err := filepath.Glob(filepath.Join(scope.dir, leafPrefix+"*"))
		if err != nil {
			t.Fatal(err)
		}
		if len(leaves) == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("left: %q", leaves)
		}
		time.Sleep(time.Millisecond)
	}
}
