package launch

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"banger/internal/paths"
	"banger/internal/vmm/launch/launcher"
	"banger/internal/vmm/process"
)

// self is this test binary, which is the launcher as well.
var self string

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == launcher.Subcommand {
		fmt.Fprintln(os.Stderr, launcher.Main())
		os.Exit(1) //nolint:forbidigo // it is a program
	}
	var err error
	if self, err = os.Executable(); err != nil {
		panic(err)
	}
	os.Exit(m.Run()) //nolint:forbidigo // nothing to clean up
}

func someGrant(t *testing.T) launcher.Grant {
	t.Helper()
	return launcher.Grant{RunDir: t.TempDir(), FileBytes: 1 << 20}
}

// TestStatus looks at a real program: what the kernel says of it.
func TestStatus(t *testing.T) {
	t.Parallel()
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Fatal(err)
	}
	child, _, err := Start(t.Context(), self, Command{Path: sleep, Args: []string{"1000"}, Grant: someGrant(t)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = child.Kill(t.Context()), child.Close() }()
	pid := child.Identity().PID
	proc := filepath.Join("/proc", strconv.Itoa(pid))
	if line, err := os.ReadFile(filepath.Join(proc, "cmdline")); err != nil || string(line) != sleep+"\x001000\x00" {
		t.Errorf("process %d is %q, %v", pid, line, err)
	}
	// The same process as the one that was started.
	again, err := process.Open(child.Identity())
	if err != nil {
		t.Fatal(err)
	}
	_ = again.Close()
	status, err := os.ReadFile(filepath.Join(proc, "status"))
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Join(strings.Fields(string(status)), " ")
	for _, want := range []string{"NoNewPrivs: 1", "CapPrm: 0000000000000000", "CapEff: 0000000000000000"} {
		if !strings.Contains(fields, want) {
			t.Errorf("no %q in %q", want, fields)
		}
	}
	_, ignored, _ := strings.Cut(fields, "SigIgn: ")
	ignored, _, _ = strings.Cut(ignored, " ")
	mask, err := strconv.ParseUint(ignored, 16, 64)
	if err != nil || mask&(1<<(unix.SIGXFSZ-1)) == 0 {
		t.Errorf("a file that is too long ends it: it ignores %q, %v", ignored, err)
	}
	for resource, want := range map[int]unix.Rlimit{
		unix.RLIMIT_CORE: {}, unix.RLIMIT_FSIZE: {Cur: 1 << 20, Max: 1 << 20},
	} {
		var got unix.Rlimit
		if err := unix.Prlimit(pid, resource, nil, &got); err != nil || got != want {
			t.Errorf("limit %d is %+v, %v", resource, got, err)
		}
	}
	var files unix.Rlimit
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, nil, &files); err != nil || files.Max > launcher.MaxOpenFiles {
		t.Errorf("open files %+v, %v", files, err)
	}
}

func TestStartFails(t *testing.T) {
	t.Parallel()
	text := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(text, []byte("no program"), 0o700); err != nil { //nolint:gosec // it is run
		t.Fatal(err)
	}
	for _, test := range []struct {
		name, launcher, path, want string
	}{
		{name: "no such program", launcher: self, path: "/nonexistent", want: "no such file"},
		{name: "no program", launcher: self, path: text, want: "neither a program"},
		{name: "a relative path", launcher: self, path: "sleep", want: "not an absolute path"},
		{name: "no launcher", launcher: "/nonexistent", path: "/bin/true", want: "a part of banger"},
		{name: "another launcher", launcher: "/bin/true", path: "/bin/true", want: "launcher"},
	} {
		child, _, err := Start(t.Context(), test.launcher, Command{Path: test.path, Grant: someGrant(t)})
		if err == nil {
			_ = child.Kill(t.Context())
			t.Errorf("%s: it runs", test.name)
			continue
		}
		if !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", test.name, err, test.want)
		}
		if missing, ok := errors.AsType[*paths.Error](err); ok != (test.name == "no launcher") || ok && missing.Hint == "" {
			t.Errorf("%s: a hint: %v", test.name, missing)
		}
	}
}

func TestCheck(t *testing.T) {
	t.Parallel()
	layers, err := Check(t.Context(), self)
	if err != nil || len(layers) == 0 {
		t.Fatalf("%+v, %v", layers, err)
	}
	for _, layer := range layers {
		if layer.Name == "" || layer.Detail == "" {
			t.Errorf("layer %+v", layer)
		}
	}
	if _, err := Check(t.Context(), "/bin/true"); err == nil {
		t.Error("a launcher that is none")
	}
}

func TestOwnFilter(t *testing.T) {
	t.Parallel()
	for status, want := range map[string]int{"Seccomp:\t2\nSeccomp_filters:\t3\n": 3, "Seccomp:\t2\n": -1, "Seccomp_filters:\tx\n": -1} {
		got, ok := seccompFilters(status)
		if ok != (want >= 0) || ok && got != want {
			t.Errorf("%q: %d, %t", status, got, ok)
		}
	}
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Fatal(err)
	}
	child, confinement, err := Start(t.Context(), self, Command{Path: sleep, Args: []string{"1000"}, Grant: someGrant(t)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = child.Kill(t.Context()), child.Close() }()
	if layer := ownFilter(child.Identity().PID, confinement.layers); layer.On || layer.Detail == "" {
		t.Errorf("a program without one: %+v", layer)
	}
}
