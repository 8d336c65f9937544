package launcher_test

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"banger/internal/confine"
	"banger/internal/vmm/launch"
	"banger/internal/vmm/launch/launcher"
	"banger/internal/vmm/process"
	"banger/internal/vmm/process/processtest"
)

// Names under which this test binary is something else: a stand-in for a VMM,
// and one that is confined by one layer alone.
const (
	standIn = "stand-in"
	alone   = "alone"
)

var self string

func TestMain(m *testing.M) {
	switch {
	case filepath.Base(os.Args[0]) == standIn:
		try(targetOf(os.Args[1]))
		return
	case len(os.Args) > 1 && os.Args[1] == launcher.Subcommand:
		fmt.Fprintln(os.Stderr, launcher.Main())
		os.Exit(1) //nolint:forbidigo // it is a program
	case len(os.Args) > 1 && os.Args[1] == alone:
		runtime.LockOSThread()
		on := targetOf(os.Args[3])
		if err := launcher.LayerAlone(os.Args[2], self, on.grant()); err != nil {
			panic(err)
		}
		try(on)
		return
	}
	var err error
	if self, err = os.Executable(); err != nil {
		panic(err)
	}
	os.Exit(m.Run()) //nolint:forbidigo // nothing to clean up
}

// target is what is there to be tried.
type target struct {
	OwnDisk, Image, OtherDisk, Secret, RunDir, OtherDir string
	Socket                                              string // somebody else's, and
	Process                                             int    // their process
}

func targetOf(text string) target {
	var on target
	if err := json.Unmarshal([]byte(text), &on); err != nil {
		panic(err)
	}
	return on
}

func (on target) grant() launcher.Grant {
	return launcher.Grant{ReadOnly: []string{on.Image}, ReadWrite: []string{on.OwnDisk}, RunDir: on.RunDir, FileBytes: 1 << 20}
}

// attempts are what a VMM must be able to do, and what it must not, with the
// layers that see to it.
var attempts = []struct {
	name   string
	layers string // empty: it must be possible
	do     func(on target) error
}{
	{"write the VM's disk", "", func(on target) error { return open(on.OwnDisk, os.O_RDWR) }},
	{"read the image", "", func(on target) error { return open(on.Image, os.O_RDONLY) }},
	{"make a socket", "", func(on target) error { return listen(filepath.Join(on.RunDir, "own.sock")) }},
	{"signal itself", "", func(target) error { return unix.Kill(os.Getpid(), 0) }},

	{"write the image", "files", func(on target) error { return open(on.Image, os.O_RDWR) }},
	{"read another VM's disk", "files", func(on target) error { return open(on.OtherDisk, os.O_RDONLY) }},
	{"read a file of the user", "files", func(on target) error { return open(on.Secret, os.O_RDONLY) }},
	{"cut a file of the user", "files", func(on target) error { return os.Truncate(on.Secret, 0) }},
	{"list the user's files", "files", func(on target) error { _, err := os.ReadDir(on.OtherDir); return err }},
	{"make a file", "files", func(on target) error { return open(filepath.Join(on.RunDir, "new"), os.O_RDWR|os.O_CREATE) }},
	{"rename the image", "files, system calls", func(on target) error { return os.Rename(on.Image, on.Image) }},
	{"look at another process", "files", func(on target) error {
		return open(fmt.Sprintf("/proc/%d/environ", on.Process), os.O_RDONLY)
	}},
	{"run a program", "files, system calls", func(target) error { return exec.Command("/bin/true").Run() }},
	{"signal another process", "files, system calls", func(on target) error { return unix.Kill(on.Process, 0) }},
	{"trace another process", "files, system calls", func(on target) error {
		err := unix.PtraceAttach(on.Process)
		if err == nil {
			_, _ = unix.Wait4(on.Process, nil, 0, nil)
			_ = unix.PtraceDetach(on.Process)
		}
		return err
	}},

	{"look at the limits of another process", "system calls", func(on target) error {
		return unix.Prlimit(on.Process, unix.RLIMIT_CPU, nil, new(unix.Rlimit))
	}},
	{"change the mode of a file of the user", "system calls", func(on target) error { return os.Chmod(on.Secret, 0o600) }},
	{"connect to a socket", "system calls", func(on target) error { return dial(on.Socket) }},
	{"send to a socket", "system calls", func(target) error { return socket(unix.AF_UNIX, unix.SOCK_DGRAM) }},
	{"make a socket for the internet", "system calls", func(target) error { return socket(unix.AF_INET, unix.SOCK_STREAM) }},
	{"ask the kernel by netlink", "system calls", func(target) error { return socket(unix.AF_NETLINK, unix.SOCK_RAW) }},
	{"open a handle on a process", "system calls", func(target) error {
		fd, err := unix.PidfdOpen(os.Getpid(), 0)
		_ = unix.Close(fd)
		return err
	}},
	{"use keys", "system calls", func(target) error {
		_, err := unix.KeyctlGetKeyringID(unix.KEY_SPEC_PROCESS_KEYRING, true)
		return err
	}},

	{"write more than a disk holds", "limits", func(on target) error { return os.Truncate(on.OwnDisk, 1<<40) }},
	{"dump core", "limits", func(target) error { return atLeast(unix.RLIMIT_CORE, 1) }},
	{"open many files", "limits", func(target) error { return atLeast(unix.RLIMIT_NOFILE, launcher.MaxOpenFiles+1) }},

	{"gain privileges", "privileges", func(target) error {
		set, err := unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)
		if err == nil && set == 1 {
			err = unix.EPERM
		}
		return err
	}},
	{"use a capability", "privileges", func(target) error {
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var have [2]unix.CapUserData
		if err := unix.Capget(&header, &have[0]); err != nil {
			return err
		}
		if have[0].Permitted == 0 {
			return unix.EPERM
		}
		return nil
	}},

	{"use an inherited descriptor", "descriptors", func(target) error { return inherited() }},
}

// try prints the names of the attempts that succeed.
func try(on target) {
	for _, attempt := range attempts {
		if err := attempt.do(on); err == nil {
			fmt.Fprintln(os.Stdout, attempt.name)
		}
	}
}

func open(path string, flags int) error {
	file, err := os.OpenFile(path, flags, 0o600)
	if err == nil {
		_ = file.Close()
	}
	return err
}

func socket(family, kind int) error {
	fd, err := unix.Socket(family, kind, 0)
	if err == nil {
		_ = unix.Close(fd)
	}
	return err
}

func listen(path string) error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	return unix.Bind(fd, &unix.SockaddrUnix{Name: path})
}

func dial(path string) error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	return unix.Connect(fd, &unix.SockaddrUnix{Name: path})
}

func atLeast(resource int, want uint64) error {
	var have unix.Rlimit
	err := unix.Getrlimit(resource, &have)
	if err == nil && have.Max < want {
		err = unix.EPERM
	}
	return err
}

// inherited looks for a descriptor of the test, which would be there still after
// an exec.
func inherited() error {
	if flags, err := unix.FcntlInt(leakFD, unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC != 0 {
		return unix.EBADF
	}
	return nil
}

// leakFD is a descriptor that nothing else gets.
const leakFD = 200

func newTarget(t *testing.T) target {
	t.Helper()
	dir, err := os.MkdirTemp("", "launch") //nolint:usetesting // short enough for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	path := func(name string) string { return filepath.Join(dir, name) }
	on := target{
		OwnDisk: path("disk"), Image: path("image"), OtherDisk: path("other"), Secret: path("home/secret"),
		RunDir: path("run"), OtherDir: path("home"), Socket: path("home/socket"),
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
	listener, err := new(net.ListenConfig).Listen(t.Context(), "unix", on.Socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Fatal(err)
	}
	other := exec.CommandContext(t.Context(), sleep, "1000")
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = other.Process.Kill(), other.Wait() })
	on.Process = other.Process.Pid
	return on
}

// possible is what a VMM can do.
func possible() string {
	var names strings.Builder
	for _, attempt := range attempts {
		if attempt.layers == "" {
			names.WriteString(attempt.name + "\n")
		}
	}
	return names.String()
}

func needLandlock(t *testing.T) {
	t.Helper()
	if abi, err := confine.LandlockABI(); err != nil || abi < 6 {
		t.Skipf("NOT TESTED: Landlock %d, %v", abi, err)
	}
}

// TestConfined starts a stand-in for a VMM and has it try.
func TestConfined(t *testing.T) {
	needLandlock(t)
	// Inherited by the launcher, as bangerd may have inherited some.
	if err := unix.Dup2(2, leakFD); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(leakFD) }()
	on := newTarget(t)
	stdout, layers := run(t, on, on.grant())
	if diff := cmp.Diff(possible(), stdout); diff != "" {
		t.Errorf("it can (-want +got):\n%s", diff)
	}
	for _, layer := range layers {
		if !layer.On || layer.Detail == "" {
			t.Errorf("layer %+v", layer)
		}
	}
}

// TestLayers has each layer hold what it is to hold without the others.
func TestLayers(t *testing.T) {
	t.Parallel()
	for _, layer := range []string{"files", "system calls", "limits", "privileges", "descriptors"} {
		t.Run(layer, func(t *testing.T) {
			t.Parallel()
			if layer == "files" {
				needLandlock(t)
			}
			on := newTarget(t)
			text, err := json.Marshal(on)
			if err != nil {
				t.Fatal(err)
			}
			cmd := exec.CommandContext(t.Context(), self, alone, layer, string(text))
			var stderr strings.Builder
			cmd.Stderr = &stderr
			out, err := cmd.Output()
			if err != nil {
				t.Fatalf("%v: %s", err, stderr.String())
			}
			can := strings.Split(string(out), "\n")
			for _, attempt := range attempts {
				could := slices.Contains(can, attempt.name)
				if attempt.layers == "" && !could {
					t.Errorf("cannot %s", attempt.name)
				}
				if could && strings.Contains(attempt.layers, layer) {
					t.Errorf("can %s", attempt.name)
				}
			}
		})
	}
}

// TestAttempts makes sure that without any layer nothing but the host itself
// stands in the way of them.
func TestAttempts(t *testing.T) {
	t.Parallel()
	on := newTarget(t)
	text, err := json.Marshal(on)
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), self, alone, "none", string(text)).Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, attempt := range attempts {
		// What depends on the host, and on who runs this.
		if slices.Contains([]string{"use a capability", "dump core", "open many files", "trace another process", "use an inherited descriptor", "use keys"}, attempt.name) {
			continue
		}
		if !slices.Contains(strings.Split(string(out), "\n"), attempt.name) {
			t.Errorf("cannot %s, confined or not: it proves nothing", attempt.name)
		}
	}
}

// run returns what the stand-in could do.
func run(t *testing.T, on target, grant launcher.Grant) (string, []confine.Layer) {
	t.Helper()
	text, err := json.Marshal(on)
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(t.TempDir(), standIn)
	if err := os.Symlink(self, program); err != nil {
		t.Fatal(err)
	}
	var confinement *launch.Confinement
	said := processtest.Said(t, func(log *os.File) (child *process.Process, err error) {
		child, confinement, err = launch.Start(t.Context(), self, launch.Command{Path: program, Args: []string{string(text)}, Log: log, Grant: grant})
		return child, err
	})
	// What comes with the process, not by the launcher.
	others := []string{"own filter", "cgroup"}
	return said, slices.DeleteFunc(confinement.Layers(), func(l confine.Layer) bool { return slices.Contains(others, l.Name) })
}

// TestRootElsewhere has root run a VM whose files are in another user's
// private directory: it keeps what lets it.
func TestRootElsewhere(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("NOT TESTED: this user cannot make files of another")
	}
	on := newTarget(t)
	const nobody = 65534
	if err := os.Chown(filepath.Dir(on.OwnDisk), nobody, nobody); err != nil {
		t.Fatal(err)
	}
	stdout, layers := run(t, on, on.grant())
	if !strings.Contains(stdout, "write the VM's disk\n") || strings.Contains(stdout, "read another") {
		t.Errorf("it can:\n%s", stdout)
	}
	for _, layer := range layers {
		if layer.On == (layer.Name == "privileges") {
			t.Errorf("layer %+v", layer)
		}
	}
}
