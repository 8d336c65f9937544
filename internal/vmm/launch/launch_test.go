package launch

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"banger/internal/confine"
	"banger/internal/vmm/process"
)

// Names under which this test binary is something else.
const tryName = "stand-in"

var self string

func TestMain(m *testing.M) {
	switch {
	case filepath.Base(os.Args[0]) == tryName:
		try(os.Args[1])
		return
	case len(os.Args) > 1 && os.Args[1] == Subcommand:
		fmt.Fprintln(os.Stderr, Main())
		os.Exit(1) //nolint:forbidigo // it is a program
	}
	var err error
	if self, err = os.Executable(); err != nil {
		panic(err)
	}
	os.Exit(m.Run()) //nolint:forbidigo // nothing to clean up
}

// target is what the stand-in for a VMM tries itself on.
type target struct {
	OwnDisk, Image, OtherDisk, Secret, RunDir, OtherDir string
	Socket                                              string // of somebody else
	Process                                             int    // somebody else's
}

// try attempts what a VMM must be able to do, and what it must not, and prints
// the names of what it could.
func try(text string) {
	var on target
	if err := json.Unmarshal([]byte(text), &on); err != nil {
		panic(err)
	}
	open := func(path string, flags int) error {
		file, err := os.OpenFile(path, flags, 0o600)
		if err == nil {
			file.Close()
		}
		return err
	}
	for _, attempt := range []struct {
		name string
		do   func() error
	}{
		{"write the VM's disk", func() error { return open(on.OwnDisk, os.O_RDWR) }},
		{"read the image", func() error { return open(on.Image, os.O_RDONLY) }},
		{"make a socket", func() error { return listen(filepath.Join(on.RunDir, "own.sock")) }},
		{"write the image", func() error { return open(on.Image, os.O_RDWR) }},
		{"make a disk longer than it is", func() error { return os.Truncate(on.OwnDisk, 1<<40) }},
		{"read another VM's disk", func() error { return open(on.OtherDisk, os.O_RDONLY) }},
		{"read a file of the user", func() error { return open(on.Secret, os.O_RDONLY) }},
		{"list the user's files", func() error { _, err := os.ReadDir(on.OtherDir); return err }},
		{"make a file", func() error { return open(filepath.Join(on.RunDir, "new"), os.O_RDWR|os.O_CREATE) }},
		{"write /etc/passwd", func() error { return open("/etc/passwd", os.O_RDWR) }},
		{"run a program", func() error { return exec.Command("/bin/true").Run() }}, //nolint:noctx // it must not start at all
		{"use an inherited descriptor", inherited},
	} {
		if err := attempt.do(); err == nil {
			fmt.Fprintln(os.Stdout, attempt.name)
		}
	}
}

// inherited looks for descriptors that are not the runtime's.
func inherited() error {
	for fd := 3; fd < 64; fd++ {
		var stat unix.Stat_t
		if err := unix.Fstat(fd, &stat); err == nil && stat.Mode&unix.S_IFMT == unix.S_IFREG {
			return nil
		}
	}
	return unix.EBADF
}

func listen(path string) error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	return unix.Bind(fd, &unix.SockaddrUnix{Name: path})
}

// TestConfined starts a stand-in for a VMM and has it try.
func TestConfined(t *testing.T) {
	t.Parallel()
	if _, err := confine.LandlockABI(); err != nil {
		t.Skipf("NOT TESTED: %v", err)
	}
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	on := target{
		OwnDisk: path("disk"), Image: path("image"), OtherDisk: path("other"), Secret: path("home/secret"),
		RunDir: path("run"), OtherDir: path("home"),
	}
	for _, name := range []string{on.RunDir, on.OtherDir} {
		if err := os.Mkdir(name, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{on.OwnDisk, on.Image, on.OtherDisk, on.Secret} {
		if err := os.WriteFile(name, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// Inherited by the launcher, as bangerd may have inherited some.
	leak, err := unix.Open(on.Secret, unix.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(leak) }()
	stdout, layers := run(t, on, Grant{ReadOnly: []string{on.Image}, ReadWrite: []string{on.OwnDisk}, RunDir: on.RunDir, FileBytes: 1 << 20})
	if diff := cmp.Diff("write the VM's disk\nread the image\nmake a socket\n", stdout); diff != "" {
		t.Errorf("it can (-want +got):\n%s", diff)
	}
	for _, layer := range layers {
		if !layer.On || layer.Detail == "" {
			t.Errorf("layer %+v", layer)
		}
	}
}

// run returns what the stand-in could do.
func run(t *testing.T, on target, grant Grant) (string, []confine.Layer) {
	t.Helper()
	text, err := json.Marshal(on)
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(t.TempDir(), tryName)
	if err := os.Symlink(self, program); err != nil {
		t.Fatal(err)
	}
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	child, layers, err := Start(t.Context(), self, Command{Path: program, Args: []string{string(text)}, Log: log, Grant: grant})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = child.Close() }()
	select {
	case <-child.Done():
	case <-time.After(time.Minute):
		_ = child.Kill(t.Context())
		t.Fatal("it does not end")
	}
	out, err := os.ReadFile(log.Name())
	if err != nil {
		t.Fatal(err)
	}
	return string(out), layers
}

func someGrant(t *testing.T) Grant {
	t.Helper()
	return Grant{RunDir: t.TempDir(), FileBytes: 1 << 20}
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
	for resource, want := range map[int]unix.Rlimit{
		unix.RLIMIT_CORE: {}, unix.RLIMIT_FSIZE: {Cur: 1 << 20, Max: 1 << 20},
	} {
		var got unix.Rlimit
		if err := unix.Prlimit(pid, resource, nil, &got); err != nil || got != want {
			t.Errorf("limit %d is %+v, %v", resource, got, err)
		}
	}
	var files unix.Rlimit
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, nil, &files); err != nil || files.Max > maxOpenFiles {
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
		is                         error
	}{
		{name: "no such program", launcher: self, path: "/nonexistent", want: "no such file"},
		{name: "no program", launcher: self, path: text, want: "neither a program"},
		{name: "a relative path", launcher: self, path: "sleep", want: "not an absolute path"},
		{name: "no launcher", launcher: "/nonexistent", path: "/bin/true", want: "no such file", is: os.ErrNotExist},
		{name: "another launcher", launcher: "/bin/true", path: "/bin/true", want: "launcher"},
	} {
		child, _, err := Start(t.Context(), test.launcher, Command{Path: test.path, Grant: someGrant(t)})
		if err == nil {
			_ = child.Kill(t.Context())
			t.Errorf("%s: it runs", test.name)
			continue
		}
		if !strings.Contains(err.Error(), test.want) || test.is != nil && !errors.Is(err, test.is) {
			t.Errorf("%s: %v, want %q", test.name, err, test.want)
		}
	}
}

func FuzzParsePlan(f *testing.F) {
	good, err := json.Marshal(plan{Path: "/bin/true", Grant: Grant{RunDir: "/run", FileBytes: 1}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"path":"/a","grant":{"run_dir":"/","file_bytes":1,"read_only":["x"]}}`))
	f.Add([]byte(`{} {}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		p, err := parsePlan(text)
		if err == nil && (!filepath.IsAbs(p.Path) || p.Files < 0) {
			t.Errorf("%q became %+v", text, p)
		}
	})
}
