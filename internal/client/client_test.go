package client

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"banger/internal/api"
	"banger/internal/paths"
	"banger/internal/progress"
)

// daemonMode makes the test binary play bangerd.
const daemonMode = "BANGER_CLIENT_TEST_DAEMON"

func TestMain(m *testing.M) {
	switch mode := os.Getenv(daemonMode); mode {
	case "":
		os.Exit(m.Run()) //nolint:forbidigo // this is main
	case "bad config":
		fmt.Fprintln(os.Stderr, "time=now level=INFO msg=begun")
		fmt.Fprintln(os.Stderr, "bangerd: bad configuration: config.toml:3: vmm: it is wrong")
		fmt.Fprintln(os.Stderr, "hint: correct it")
	case "crash":
		fmt.Fprintln(os.Stderr, "panic: something")
	default:
		playDaemon(mode)
	}
	os.Exit(1) //nolint:forbidigo // this is main
}

// playDaemon answers as a bangerd of some build, until it is told to stop or
// nobody has come for a while.
func playDaemon(build string) {
	dirs, err := paths.New(os.Getenv)
	if err != nil {
		return
	}
	_ = os.Remove(dirs.Socket())
	listener, err := net.Listen("unix", dirs.Socket()) //nolint:noctx // it is at once
	if err != nil {
		return
	}
	server := &http.Server{ReadHeaderTimeout: time.Minute}
	stopping := make(chan struct{})
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/daemon", func(w http.ResponseWriter, _ *http.Request) {
		json.NewEncoder(w).Encode(api.Daemon{Build: build, PID: os.Getpid()})
	})
	mux.HandleFunc("POST /v1/daemon/stop", func(http.ResponseWriter, *http.Request) {
		close(stopping)
	})
	server.Handler = mux
	time.AfterFunc(2*time.Minute, func() { os.Exit(1) }) //nolint:forbidigo // nobody has told it to stop
	go server.Serve(listener)
	<-stopping
	// It waits for the answer to be sent.
	server.Shutdown(context.Background())
}

// serve returns a client of a handler on a real unix socket.
func serve(t *testing.T, handler http.Handler) *Client {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	if len(socket) > 100 {
		t.Skip("the temporary directory is too deep for a socket")
	}
	var config net.ListenConfig
	listener, err := config.Listen(t.Context(), "unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: handler, ReadHeaderTimeout: time.Minute}
	var wait sync.WaitGroup
	wait.Go(func() { server.Serve(listener) })
	t.Cleanup(func() { server.Close(); wait.Wait() })
	return New(socket)
}

func kindOf(err error) api.Kind {
	if answered, ok := errors.AsType[*api.Error](err); ok {
		return answered.Kind
	}
	return ""
}

func TestCalls(t *testing.T) {
	t.Parallel()
	var got []string
	c := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		got = append(got, strings.TrimSpace(r.Method+" "+r.URL.RequestURI()+" "+string(body)))
		if r.Host != "bangerd" {
			t.Errorf("host %q", r.Host)
		}
		if strings.HasSuffix(r.URL.Path, "/missing") {
			w.WriteHeader(http.StatusNotFound)
			fmt.Fprint(w, `{"kind":"not_found","message":"no","hint":"look"}`)
			return
		}
		if r.Method == http.MethodGet && (r.URL.Path == "/v1/vms" || strings.HasSuffix(r.URL.Path, "s")) && !strings.Contains(r.URL.Path, "stats") {
			fmt.Fprint(w, "[]")
			return
		}
		fmt.Fprint(w, "{}")
	}))
	ctx := t.Context()
	for _, call := range []func() error{
		func() error { _, err := c.VMs(ctx); return err },
		func() error { _, err := c.VM(ctx, "a b/../c"); return err },
		func() error { _, err := c.SetVM(ctx, "a", api.SetVM{VCPU: 2}); return err },
		func() error { return c.DeleteVM(ctx, "a", api.DeleteVM{Force: true}) },
		func() error { _, err := c.Kernels(ctx, true); return err },
		func() error { return c.Logs(ctx, "a", "console", false, io.Discard) },
	} {
		if err := call(); err != nil {
			t.Error(err)
		}
	}
	want := []string{
		"GET /v1/vms", "GET /v1/vms/a%20b%2F..%2Fc", `PATCH /v1/vms/a {"vcpu":2}`, `DELETE /v1/vms/a {"force":true}`, "GET /v1/kernels?available=1",
		"GET /v1/vms/a/logs?source=console",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("asked\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	_, err := c.VM(ctx, "missing")
	if answered, ok := errors.AsType[*api.Error](err); !ok || answered.Kind != api.KindNotFound || answered.Hint != "look" {
		t.Errorf("got %v", err)
	}
}

func TestNotRunning(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if _, err := New(filepath.Join(dir, "none")).VMs(t.Context()); !errors.Is(err, ErrNotRunning) {
		t.Errorf("no socket: %v", err)
	}
	// A socket that nobody listens on any more.
	left := filepath.Join(dir, "left")
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: left, Net: "unix"})
	if err != nil {
		t.Skip("the temporary directory is too deep for a socket")
	}
	listener.SetUnlinkOnClose(false)
	listener.Close()
	if _, err := New(left).VMs(t.Context()); !errors.Is(err, ErrNotRunning) {
		t.Errorf("left socket: %v", err)
	}
}

func TestForeignSocket(t *testing.T) {
	t.Parallel()
	if os.Getuid() == 0 {
		t.Skip("root may use every socket")
	}
	socket := filepath.Join(t.TempDir(), "s")
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket, Net: "unix"})
	if err != nil {
		t.Skip("the temporary directory is too deep for a socket")
	}
	defer listener.Close()
	if err := os.Chmod(socket, 0); err != nil {
		t.Fatal(err)
	}
	_, err = New(socket).VMs(t.Context())
	if err == nil || !strings.Contains(err.Error(), "belongs to another user") {
		t.Errorf("got %v", err)
	}
}

func TestEvents(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, answer string
		want         string // error
		kind         api.Kind
	}{
		{"result", `{"progress":{"text":"one"}}` + "\n\n" + `{"result":{"name":"made"}}` + "\n", "", ""},
		{"error", `{"error":{"kind":"no_space","message":"full"}}` + "\n", "full", api.KindNoSpace},
		{"ends", `{"progress":{"text":"one"}}` + "\n", "bangerd went away", api.KindInternal},
		{"ends in a line", `{"progress":{"te`, "cannot understand", ""},
		{"nonsense", "hello\n", "cannot understand", ""},
		{"endless line", strings.Repeat("x", maxEvent+10), "cannot understand", ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			c := serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, test.answer) }))
			vm, err := c.CreateVM(t.Context(), api.CreateVM{}, progress.Discard)
			if test.want == "" {
				if err != nil || vm.Name != "made" {
					t.Errorf("got %+v, %v", vm, err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), test.want) || kindOf(err) != test.kind {
				t.Errorf("got %v (%s)", err, kindOf(err))
			}
		})
	}
}

// A canceled operation is waited for, whether it had said anything or not.
func TestCancelEvents(t *testing.T) {
	t.Parallel()
	for _, talks := range []bool{false, true} {
		begun, undone := make(chan struct{}), make(chan struct{})
		c := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			if talks {
				fmt.Fprintln(w, `{"progress":{"text":"one"}}`)
				http.NewResponseController(w).Flush()
			}
			close(begun)
			<-r.Context().Done()
			close(undone)
			fmt.Fprintln(w, `{"error":{"kind":"canceled","message":"canceled"}}`)
		}))
		ctx, cancel := context.WithCancelCause(t.Context())
		why := errors.New("the user said so")
		go func() { <-begun; cancel(why) }()
		_, err := c.CreateVM(ctx, api.CreateVM{}, progress.Discard)
		if !errors.Is(err, why) {
			t.Errorf("talks %v: got %v", talks, err)
		}
		select {
		case <-undone:
		default:
			t.Error("it was not waited for")
		}
	}
}

func TestWentAway(t *testing.T) {
	t.Parallel()
	c := serve(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }))
	_, err := c.VMs(t.Context())
	if err == nil || !strings.Contains(err.Error(), "bangerd went away") || kindOf(err) != api.KindInternal {
		t.Errorf("got %v", err)
	}
}

// What the daemon sends with its answer to an upgrade is not lost, and each
// direction ends alone.
func TestStream(t *testing.T) {
	t.Parallel()
	c := serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		conn, buffered, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		fmt.Fprint(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: banger-agent\r\n\r\nearly ")
		said, _ := io.ReadAll(buffered)
		fmt.Fprintf(conn, "heard %s", said)
	}))
	conn, err := c.DialAgent(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "hello")
	if err := conn.(*Stream).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(conn); string(got) != "early heard hello" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
}

// A held VM is held again when bangerd comes back.
func TestHoldAgain(t *testing.T) {
	t.Parallel()
	holds := make(chan net.Conn, 2)
	c := serve(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		conn, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		fmt.Fprint(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: banger-hold\r\n\r\n")
		holds <- conn
	}))
	release, err := c.Hold(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	(<-holds).Close()
	again := <-holds
	release()
	if _, err := again.Read(make([]byte, 1)); !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("it is still held: %v", err)
	}
	again.Close()
}

// launcher has the test binary for a bangerd.
func launcher(t *testing.T, mode string) *Launcher {
	t.Helper()
	home := t.TempDir()
	for key, value := range map[string]string{"HOME": home, "XDG_RUNTIME_DIR": home, "XDG_STATE_HOME": "", daemonMode: mode} {
		t.Setenv(key, value)
	}
	dirs, err := paths.New(os.Getenv)
	if err != nil {
		t.Fatal(err)
	}
	if dirs.MakeRuntime() != nil {
		t.Skip("the temporary directory is too deep for sockets")
	}
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := New(dirs.Socket())
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute)
		defer cancel()
		if err := c.StopDaemon(ctx); err != nil && !errors.Is(err, ErrNotRunning) {
			t.Error(err)
		}
	})
	return &Launcher{Client: c, Dirs: dirs, Build: "one", Program: program}
}

func TestEnsure(t *testing.T) {
	l := launcher(t, "one")
	started, err := l.Ensure(t.Context())
	if err != nil || started.Build != "one" {
		t.Fatalf("got %+v, %v", started, err)
	}
	same, err := l.Ensure(t.Context())
	if err != nil || same.PID != started.PID {
		t.Errorf("a running one was not used: %+v, %v", same, err)
	}
	t.Setenv(daemonMode, "two")
	l.Build = "two"
	replaced, err := l.Ensure(t.Context())
	if err != nil || replaced.Build != "two" || replaced.PID == started.PID {
		t.Errorf("one of another build was not replaced: %+v, %v", replaced, err)
	}
}

// One that is killed may take a connection that it never answers.
func TestEnsureAfterKill(t *testing.T) {
	l := launcher(t, "one")
	if err := l.Dirs.Make(); err != nil {
		t.Fatal(err)
	}
	dying, err := new(net.ListenConfig).Listen(t.Context(), "unix", l.Dirs.Socket())
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		conn, err := dying.Accept()
		dying.Close()
		if err == nil {
			conn.Close()
		}
	}()
	if started, err := l.Ensure(t.Context()); err != nil || started.PID == 0 {
		t.Errorf("got %+v, %v", started, err)
	}
}

// A lock that the caller's shell holds must not be bangerd's too.
func TestEnsureHandsNothingOn(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	handed, err := syscall.Open(path, syscall.O_CREAT|syscall.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(handed)
	started, err := launcher(t, "one").Ensure(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	open, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", started.PID))
	if err != nil || len(open) < 3 {
		t.Fatalf("bangerd's files: %q, %v", open, err)
	}
	for _, fd := range open {
		if target, err := os.Readlink(fd); err == nil && target == path {
			t.Errorf("bangerd has %s open as %s", path, fd)
		}
	}
}

func TestEnsureSaysWhy(t *testing.T) {
	l := launcher(t, "bad config")
	_, err := l.Ensure(t.Context())
	answered, ok := errors.AsType[*api.Error](err)
	if !ok || answered.Message != "cannot start bangerd: bad configuration: config.toml:3: vmm: it is wrong" || answered.Hint != "correct it" {
		t.Errorf("got %#v", err)
	}
	t.Setenv(daemonMode, "crash")
	_, err = l.Ensure(t.Context())
	if err == nil || !strings.Contains(err.Error(), "its log ends with: panic: something") || strings.Contains(err.Error(), "wrong") {
		t.Errorf("got %v", err)
	}
	l.Program = filepath.Join(t.TempDir(), "none")
	if _, err = l.Ensure(t.Context()); err == nil || !strings.Contains(err.Error(), "cannot start bangerd") {
		t.Errorf("got %v", err)
	}
}
