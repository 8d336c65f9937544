package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"banger/internal/api"
	"banger/internal/client"
	"banger/internal/paths"
)

func testDirs(t *testing.T) (paths.Dirs, func(string) string) {
	t.Helper()
	root, err := os.MkdirTemp("", "bd") //nolint:usetesting // short enough for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(root) })
	environment := map[string]string{
		"HOME": filepath.Join(root, "home"), "XDG_CONFIG_HOME": filepath.Join(root, "c"), "XDG_STATE_HOME": filepath.Join(root, "s"),
		"XDG_CACHE_HOME": filepath.Join(root, "k"), "XDG_RUNTIME_DIR": filepath.Join(root, "r"),
	}
	getenv := func(name string) string { return environment[name] }
	dirs, err := paths.New(getenv)
	if err != nil {
		t.Fatal(err)
	}
	return dirs, getenv
}

func TestRun(t *testing.T) {
	t.Parallel()
	dirs, getenv := testDirs(t)
	options := Options{Getenv: getenv, Executable: filepath.Join(filepath.Dir(dirs.State), "bin", "bangerd")}
	ended := make(chan error, 1)
	go func() { ended <- Run(t.Context(), options) }()
	c := client.New(dirs.Socket())
	var about api.Daemon
	eventually(t, "bangerd answers", func() bool {
		select {
		case err := <-ended:
			t.Fatalf("bangerd ended: %v", err)
		default:
		}
		var err error
		about, err = c.Daemon(t.Context())
		return err == nil
	})
	if about.PID != os.Getpid() || about.Socket != dirs.Socket() || about.Build == "" {
		t.Errorf("about: %+v", about)
	}
	info, err := os.Stat(dirs.Socket())
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the socket: %v, %v", info, err)
	}
	for _, path := range []string{dirs.KnownHosts(), dirs.SSHConfig(), dirs.Database()} {
		if _, err := os.Stat(path); err != nil {
			t.Error(err)
		}
	}
	// A second one says nothing and does nothing.
	if err := Run(t.Context(), options); err != nil {
		t.Errorf("a second bangerd: %v", err)
	}
	images, err := c.Images(t.Context())
	if err != nil || len(images) == 0 || images[0].Present {
		t.Errorf("images %+v, %v", images, err)
	}
	if err := c.StopDaemon(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Errorf("bangerd ended with %v", err)
	}
	log, err := os.ReadFile(dirs.DaemonLog())
	if err != nil || !bytes.Contains(log, []byte("bangerd answers")) {
		t.Errorf("log %q, %v", log, err)
	}
}

func TestRunRefusesWhatItCannotUse(t *testing.T) {
	t.Parallel()
	dirs, getenv := testDirs(t)
	if err := os.MkdirAll(dirs.Config, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dirs.ConfigFile(), []byte("nonsense = 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := Run(t.Context(), Options{Getenv: getenv}); err == nil || !strings.Contains(err.Error(), "nonsense") {
		t.Errorf("bad configuration: %v", err)
	}
	if err := os.Chmod(dirs.Runtime, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := Run(t.Context(), Options{Getenv: getenv}); err == nil || !strings.Contains(err.Error(), "runtime directory") {
		t.Errorf("open runtime directory: %v", err)
	}
}

// A bangerd that ends is waited for: its lock is held and nobody answers.
func TestLockWaitsForOneThatEnds(t *testing.T) {
	t.Parallel()
	dirs, _ := testDirs(t)
	if err := dirs.MakeRuntime(); err != nil {
		t.Fatal(err)
	}
	first, err := lockDaemon(t.Context(), dirs)
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan error, 1)
	go func() {
		second, err := lockDaemon(t.Context(), dirs)
		if err == nil {
			second.Close()
		}
		got <- err
	}()
	first.Close()
	if err := <-got; err != nil {
		t.Error(err)
	}
	// One that answers is not.
	first, err = lockDaemon(t.Context(), dirs)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "unix", dirs.Socket())
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	if _, err := lockDaemon(t.Context(), dirs); !errors.Is(err, errRunning) {
		t.Errorf("a second bangerd: %v", err)
	}
}

// Two bangerds that do not see each other's runtime directory share no VMs.
func TestLockState(t *testing.T) {
	t.Parallel()
	dirs, _ := testDirs(t)
	if err := dirs.MakeState(); err != nil {
		t.Fatal(err)
	}
	first, err := lockState(t.Context(), dirs)
	if err != nil {
		t.Fatal(err)
	}
	other := dirs
	other.Runtime = t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	_, err = lockState(ctx, other)
	if known, ok := errors.AsType[*api.Error](err); !ok || known.Kind != api.KindState || !strings.Contains(known.Message, dirs.Socket()) {
		t.Errorf("error %v, want one that names the other's socket", err)
	}
	first.Close()
	second, err := lockState(t.Context(), other)
	if err != nil {
		t.Fatal(err)
	}
	second.Close()
}

func TestPeer(t *testing.T) {
	t.Parallel()
	_, server := socketPair(t)
	if uid, err := peer(server); err != nil || uid != os.Getuid() {
		t.Errorf("peer = %d, %v", uid, err)
	}
	ours, theirs := net.Pipe()
	defer ours.Close()
	defer theirs.Close()
	if _, err := peer(ours); err == nil {
		t.Error("a pipe has a peer")
	}
}

func TestOtherUsersAreDropped(t *testing.T) {
	t.Parallel()
	dirs, _ := testDirs(t)
	if err := dirs.MakeRuntime(); err != nil {
		t.Fatal(err)
	}
	listener, err := listen(t.Context(), dirs.Socket(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	listener.(*ownListener).uid++
	go func() {
		if conn, err := listener.Accept(); err == nil {
			t.Error("a connection of another user was accepted")
			conn.Close()
		}
	}()
	conn, err := new(net.Dialer).DialContext(t.Context(), "unix", dirs.Socket())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if n, err := conn.Read(make([]byte, 1)); err == nil {
		t.Errorf("read %d bytes of a connection that was to be dropped", n)
	}
}

func TestLogFile(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "log")
	log, err := openLog(path, 100)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 50 {
		if _, err := fmt.Fprintf(log, "line %02d\n", i); err != nil {
			t.Fatal(err)
		}
	}
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, name := range []string{path + ".1", path} {
		text, err := os.ReadFile(name)
		if err != nil || len(text) > 100 {
			t.Errorf("%s has %d bytes, %v", name, len(text), err)
		}
		all.Write(text)
	}
	if !strings.HasSuffix(all.String(), "line 48\nline 49\n") || !strings.HasPrefix(all.String(), "line ") {
		t.Errorf("the logs hold %q", all.String())
	}
}

func TestReport(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		err  error
		want string
	}{
		{errors.Join(errors.New("a"), errors.New("b")), "bangerd: a; b\n"},
		{fmt.Errorf("outer: %w", &api.Error{Kind: api.KindNoSpace, Message: "inner", Hint: "do"}), "bangerd: outer: inner\nhint: do\n"},
	} {
		var got strings.Builder
		Report(&got, test.err)
		if got.String() != test.want {
			t.Errorf("Report(%v) = %q, want %q", test.err, got.String(), test.want)
		}
	}
	if got := apiError(fmt.Errorf("x: %w", context.Canceled)); got.Kind != api.KindCanceled {
		t.Errorf("a cancellation is of kind %q", got.Kind)
	}
}

func TestAgentBinary(t *testing.T) {
	t.Parallel()
	environment := map[string]string{}
	options := Options{Getenv: func(name string) string { return environment[name] }, Executable: "/nowhere/bin/bangerd"}
	if got, want := agentBinary(options), "/nowhere/bin/banger-vsock-agent"; got != want {
		t.Errorf("built: %q, want %q", got, want)
	}
	environment["BANGER_AGENT"] = "/x"
	if got := agentBinary(options); got != "/x" {
		t.Errorf("from the environment: %q", got)
	}
}
