package cgroup

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"banger/internal/vmm/process"
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
	const session = "0::/user.slice/user-1000.slice/session-3.scope\n"
	for _, test := range []struct {
		name  string
		uid   int
		files map[string]string
		bus   string
		want  string // in the error
	}{
		{"no systemd", 1000, nil, "", "does not run here"},
		{"root", 0, map[string]string{"run/systemd/system/": ""}, "run/dbus/system_bus_socket", ""},
		{"a user without one", 1000, map[string]string{"run/systemd/system/": ""}, "", "the user has no systemd"},
		{"one that ends with the session", 1000, map[string]string{
			"run/systemd/system/": "", "run/user/1000/bus": "", "proc/self/cgroup": session, "var/lib/systemd/linger/other": "",
		}, "", "enable-linger"},
		{"one that goes on", 1000, map[string]string{
			"run/systemd/system/": "", "run/user/1000/bus": "", "proc/self/cgroup": session, "var/lib/systemd/linger/user": "",
		}, "run/user/1000/bus", ""},
		{"one that this runs in", 1000, map[string]string{
			"run/systemd/system/": "", "run/user/1000/bus": "", "proc/self/cgroup": "0::/user.slice/user-1000.slice/user@1000.service/app.slice/x.scope\n",
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

func TestAwait(t *testing.T) {
	t.Parallel()
	const path = "sys/fs/cgroup/user.slice/banger-x-7.scope/"
	limits := Limits{MemoryBytes: 1 << 30, Threads: 99}
	for _, test := range []struct {
		name  string
		files map[string]string
		want  string // in the error
	}{
		{"all of it", map[string]string{path + "memory.max": "1073741824\n", path + "pids.max": "99\n"}, ""},
		{"no limit", map[string]string{path + "memory.max": "max\n", path + "pids.max": "99\n"}, "memory.max"},
		{"a higher limit", map[string]string{path + "memory.max": "1073741824\n", path + "pids.max": "100\n"}, "pids.max"},
		{"no controller", map[string]string{path + "memory.max": "1073741824\n"}, "not delegated"},
	} {
		test.files["proc/7/cgroup"] = "4:memory:/other\n0::/user.slice/banger-x-7.scope\n"
		err := await(t.Context(), host(t, test.files), "banger-x-7.scope", 7, limits)
		if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
			t.Errorf("%s: %v, want %q", test.name, err, test.want)
		}
	}
	if _, err := find(host(t, map[string]string{"proc/7/cgroup": "4:memory:/other\n"}), 7); err == nil {
		t.Error("a host without cgroups of version 2")
	}
}

// TestPIDThatIsAnothers has a process that got the pid of one that has ended:
// systemd is not asked about it.
func TestPIDThatIsAnothers(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	near, far := net.Pipe()
	defer far.Close()
	go func() { _, _ = io.Copy(io.Discard, far) }() // asked, it does not answer
	conn, err := dbus.NewConn(near)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	bootID, err := process.BootID()
	if err != nil {
		t.Fatal(err)
	}
	ended := exec.CommandContext(t.Context(), "true")
	if err := ended.Run(); err != nil {
		t.Fatal(err)
	}
	for _, who := range []process.Identity{
		{PID: os.Getpid(), StartTime: 1, BootID: bootID},
		{PID: ended.Process.Pid, StartTime: 1, BootID: bootID},
		{PID: os.Getpid(), StartTime: 1, BootID: "another"},
	} {
		if err := askScope(ctx, conn, "banger-x.scope", who, Limits{}); !errors.Is(err, process.ErrGone) {
			t.Errorf("%+v: %v", who, err)
		}
	}
}
