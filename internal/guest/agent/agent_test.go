package agent

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"banger/internal/agent"
	"banger/internal/agent/mux"
	"banger/internal/agent/wire"
	"banger/internal/guest/rootfs"
)

// patience is how long something that must happen may take.
const patience = 60 * time.Second

// machine is the machine the test runs on, as a guest.
type machine struct {
	root       *rootfs.FS
	mu         sync.Mutex
	configured *wire.Configuration
	shutdown   *wire.Shutdown
}

func (m *machine) Hello() wire.Hello { return wire.Hello{BootID: "boot", Kernel: "kernel"} }

func (m *machine) Configure(_ context.Context, c wire.Configuration) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.configured = &c
	return nil
}

func (m *machine) Root() *rootfs.FS { return m.root }

func (m *machine) Ready(context.Context) (wire.Ready, error) {
	return wire.Ready{State: "degraded", Failed: []string{"a.service"}}, nil
}

func (m *machine) Shutdown(_ context.Context, s wire.Shutdown) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.shutdown = &s
	return nil
}

// newClient returns a client of an agent for root, over a real channel.
func newClient(t *testing.T, root string) (*agent.Client, *machine) {
	t.Helper()
	m := &machine{}
	if root != "" {
		fs, err := rootfs.Open(root)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { fs.Close() })
		m.root = fs
	}
	ours, theirs := net.Pipe()
	streams := make(chan net.Conn)
	ctx, cancel := context.WithCancel(context.Background()) //nolint:usetesting // ends in the cleanup
	port := make(chan net.Conn, 1)
	port <- theirs
	go func() {
		_ = mux.Serve(ctx, func(ctx context.Context) (io.ReadWriteCloser, error) {
			select {
			case p := <-port:
				return p, nil
			case <-ctx.Done():
				return nil, context.Cause(ctx)
			}
		}, func(conn net.Conn) { streams <- conn })
	}()
	server := New(m, slog.New(slog.DiscardHandler))
	served := make(chan error, 1)
	go func() { served <- server.Serve(&chanListener{streams: streams, done: make(chan struct{})}) }()
	hctx, hcancel := context.WithTimeout(t.Context(), patience)
	defer hcancel()
	session, err := mux.Client(hctx, ours)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		session.Close()
		server.Close()
		cancel()
		select {
		case err := <-served:
			if err != nil {
				t.Error(err)
			}
		case <-time.After(patience):
			t.Error("the server did not end")
		}
	})
	return agent.New(session.Open), m
}

type chanListener struct {
	streams chan net.Conn
	done    chan struct{}
	once    sync.Once
}

func (l *chanListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.streams:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *chanListener) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

func (l *chanListener) Addr() net.Addr { return &net.UnixAddr{} }

func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

type result struct {
	exit           wire.Exit
	stdout, stderr string
}

func run(t *testing.T, c *agent.Client, req wire.ExecRequest, stdin io.Reader) result {
	t.Helper()
	if req.Dir == "" {
		req.Dir = "/"
	}
	var stdout, stderr bytes.Buffer
	p, err := c.Exec(testContext(t), req, agent.Streams{Stdin: stdin, Stdout: &stdout, Stderr: &stderr})
	if err != nil {
		t.Fatal(err)
	}
	exit, err := p.Wait()
	if err != nil {
		t.Fatal(err)
	}
	return result{exit, stdout.String(), stderr.String()}
}

func sh(script string) wire.ExecRequest { return wire.ExecRequest{Args: []string{"sh", "-c", script}} }

func TestCalls(t *testing.T) {
	t.Parallel()
	c, m := newClient(t, "/")
	ctx := testContext(t)
	hello, err := c.Hello(ctx)
	if err != nil || hello.BootID != "boot" || hello.Version != wire.Version {
		t.Errorf("hello: %+v, %v", hello, err)
	}
	if err := c.Configure(ctx, wire.Configuration{Hostname: "name", Entropy: []byte{1, 2}}); err != nil {
		t.Error(err)
	}
	if m.configured == nil || m.configured.Hostname != "name" || !bytes.Equal(m.configured.Entropy, []byte{1, 2}) {
		t.Errorf("configured %+v", m.configured)
	}
	ready, err := c.Ready(ctx)
	if err != nil || ready.State != "degraded" || !slices.Equal(ready.Failed, []string{"a.service"}) {
		t.Errorf("ready: %+v, %v", ready, err)
	}
	stats, err := c.Stats(ctx)
	if err != nil || stats.CPUs < 1 || stats.MemoryTotal == 0 || stats.Uptime == 0 || len(stats.Disks) == 0 {
		t.Errorf("stats: %+v, %v", stats, err)
	}
	if err := c.Shutdown(ctx, wire.Shutdown{Reboot: true}); err != nil || m.shutdown == nil || !m.shutdown.Reboot {
		t.Errorf("shutdown: %+v, %v", m.shutdown, err)
	}
}

func TestExec(t *testing.T) {
	t.Parallel()
	c, _ := newClient(t, "/")
	for name, test := range map[string]struct {
		req   wire.ExecRequest
		stdin string
		want  result
	}{
		"streams": {req: sh("echo out; echo err >&2; exit 7"), want: result{wire.Exit{Code: 7}, "out\n", "err\n"}},
		"signal":  {req: sh("kill -TERM $$"), want: result{wire.Exit{Code: 143, Signal: 15}, "", ""}},
		"stdin":   {req: wire.ExecRequest{Args: []string{"cat"}}, stdin: "text", want: result{stdout: "text"}},
		"no input at all": {
			req:  sh("cat; echo end"),
			want: result{stdout: "end\n"},
		},
		"environment": {
			req:  wire.ExecRequest{Args: []string{"sh", "-c", `echo "$HOME $A $USER"`}, Env: []string{"A=1 2"}},
			want: result{stdout: "/root 1 2 root\n"},
		},
		"directory":      {req: wire.ExecRequest{Args: []string{"pwd"}, Dir: "/usr"}, want: result{stdout: "/usr\n"}},
		"its own group":  {req: sh(`read -r line </proc/$$/stat; set -- $line; test "$5" = $$ && echo leader`), want: result{stdout: "leader\n"}},
		"argument count": {req: wire.ExecRequest{Args: []string{"sh", "-c", `echo $#`, "sh", "", "a b"}}, want: result{stdout: "2\n"}},
		"closed input":   {req: sh("exec <&-; echo done"), stdin: strings.Repeat("x", 3*wire.Window), want: result{stdout: "done\n"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var stdin io.Reader
			if test.stdin != "" {
				stdin = strings.NewReader(test.stdin)
			}
			if got := run(t, c, test.req, stdin); got != test.want {
				t.Errorf("got %+v, want %+v", got, test.want)
			}
		})
	}
}

func TestExecErrors(t *testing.T) {
	t.Parallel()
	c, _ := newClient(t, "/")
	plain := filepath.Join(t.TempDir(), "plain")
	if err := os.WriteFile(plain, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		req  wire.ExecRequest
		kind string
	}{
		"unknown":        {wire.ExecRequest{Args: []string{"no-such-program"}}, wire.ErrNotFound},
		"unknown path":   {wire.ExecRequest{Args: []string{"/no/such/program"}}, wire.ErrNotFound},
		"not executable": {wire.ExecRequest{Args: []string{plain}}, wire.ErrNotExecutable},
		"directory":      {wire.ExecRequest{Args: []string{"/usr"}}, wire.ErrNotExecutable},
		"nothing":        {wire.ExecRequest{}, wire.ErrBadRequest},
		"NUL":            {wire.ExecRequest{Args: []string{"echo", "a\x00b"}}, wire.ErrBadRequest},
		"no directory":   {wire.ExecRequest{Args: []string{"true"}, Dir: "/no/such"}, wire.ErrBadRequest},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := c.Exec(testContext(t), test.req, agent.Streams{})
			e, ok := errors.AsType[*wire.Error](err)
			if !ok || e.Kind != test.kind {
				t.Errorf("got %#v, want kind %q", err, test.kind)
			}
		})
	}
}

func TestExecBeforeConfiguration(t *testing.T) {
	t.Parallel()
	c, _ := newClient(t, "")
	_, err := c.Exec(testContext(t), sh("true"), agent.Streams{})
	if e, ok := errors.AsType[*wire.Error](err); !ok || e.Kind != wire.ErrNotConfigured {
		t.Errorf("got %v", err)
	}
}

// TestShortPrograms loses neither output nor status.
func TestShortPrograms(t *testing.T) {
	t.Parallel()
	c, _ := newClient(t, "/")
	var all sync.WaitGroup
	for worker := range 4 {
		all.Go(func() {
			for i := range 25 {
				want := result{wire.Exit{Code: i}, strconv.Itoa(worker), ""}
				if got := run(t, c, sh("printf "+strconv.Itoa(worker)+"; exit "+strconv.Itoa(i)), nil); got != want {
					t.Errorf("got %+v, want %+v", got, want)
				}
			}
		})
	}
	all.Wait()
}

func TestLargeStreams(t *testing.T) {
	t.Parallel()
	c, _ := newClient(t, "/")
	const size = 32 << 20
	source := io.TeeReader(io.LimitReader(rand.NewChaCha8([32]byte{}), size), io.Discard)
	sent, got := sha256.New(), sha256.New()
	p, err := c.Exec(testContext(t), wire.ExecRequest{Args: []string{"cat"}, Dir: "/"},
		agent.Streams{Stdin: io.TeeReader(source, sent), Stdout: got})
	if err != nil {
		t.Fatal(err)
	}
	if exit, err := p.Wait(); err != nil || exit.Code != 0 {
		t.Fatal(exit, err)
	}
	if !bytes.Equal(sent.Sum(nil), got.Sum(nil)) {
		t.Error("what came back differs")
	}
}

// TestOutputAfterExit has a child that keeps the output open for long, behind
// more output than a pipe holds and a reader that is slow.
func TestOutputAfterExit(t *testing.T) {
	t.Parallel()
	c, _ := newClient(t, "/")
	const size = 300_000
	var stdout slowBuffer
	p, err := c.Exec(testContext(t), wire.ExecRequest{Args: []string{"sh", "-c", "sleep 600 & head -c " + strconv.Itoa(size) + " /dev/zero; echo $! >&2"}, Dir: "/"},
		agent.Streams{Stdout: &stdout, Stderr: &stdout.other})
	if err != nil {
		t.Fatal(err)
	}
	exit, err := p.Wait()
	if err != nil || exit.Code != 0 {
		t.Fatal(exit, err)
	}
	if stdout.n != size {
		t.Errorf("got %d bytes, want %d", stdout.n, size)
	}
	child, err := strconv.Atoi(strings.TrimSpace(stdout.other.String()))
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(child, syscall.SIGKILL); err != nil {
		t.Errorf("the child in the background is gone: %v", err)
	}
}

type slowBuffer struct {
	n     int
	other bytes.Buffer
}

func (b *slowBuffer) Write(p []byte) (int, error) {
	time.Sleep(50 * time.Millisecond)
	b.n += len(p)
	return len(p), nil
}

func TestSignals(t *testing.T) {
	t.Parallel()
	c, _ := newClient(t, "/")
	r, w := io.Pipe()
	p, err := c.Exec(testContext(t), wire.ExecRequest{Args: []string{"sh", "-c", "trap 'echo got; exit 3' USR1; echo ready; while :; do sleep 0.05; done"}, Dir: "/"},
		// Input that the program does not read must not be in a signal's way.
		agent.Streams{Stdin: zeros{}, Stdout: w})
	if err != nil {
		t.Fatal(err)
	}
	line := make([]byte, 6)
	if _, err := io.ReadFull(r, line); err != nil || string(line) != "ready\n" {
		t.Fatal(string(line), err)
	}
	go func() { _, _ = io.Copy(io.Discard, r) }()
	if err := p.Signal(syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	if exit, err := p.Wait(); err != nil || exit.Code != 3 {
		t.Errorf("got %+v, %v", exit, err)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// TestCancel kills a program that ignores what asks it to end.
func TestCancel(t *testing.T) {
	t.Parallel()
	c, _ := newClient(t, "/")
	ctx, cancel := context.WithCancelCause(testContext(t))
	r, w := io.Pipe()
	p, err := c.Exec(ctx, wire.ExecRequest{Args: []string{"sh", "-c", "trap '' HUP TERM; echo $$; while :; do sleep 0.05; done"}, Dir: "/"}, agent.Streams{Stdout: w})
	if err != nil {
		t.Fatal(err)
	}
	text := make([]byte, 32)
	n, err := r.Read(text)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text[:n])))
	if err != nil {
		t.Fatal(err)
	}
	reason := errors.New("enough")
	cancel(reason)
	if _, err := p.Wait(); !errors.Is(err, reason) {
		t.Errorf("got %v", err)
	}
	eventually(t, "the program's end", func() bool { return syscall.Kill(pid, 0) != nil })
}

func eventually(t *testing.T, what string, check func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !check(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

func TestTTY(t *testing.T) {
	t.Parallel()
	c, _ := newClient(t, "/")
	r, w := io.Pipe()
	p, err := c.Exec(testContext(t), wire.ExecRequest{
		Args: []string{"sh", "-c", "tty >/dev/null && stty size; trap 'stty size; exit 4' WINCH; echo ready; while :; do sleep 0.05; done"},
		Dir:  "/", TTY: true, Size: &wire.Size{Rows: 11, Cols: 22},
	}, agent.Streams{Stdin: blocked(t), Stdout: w})
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var text bytes.Buffer
	has := func(s string) func() bool {
		return func() bool {
			mu.Lock()
			defer mu.Unlock()
			return strings.Contains(text.String(), s)
		}
	}
	go func() {
		buf := make([]byte, 1024)
		for {
			n, err := r.Read(buf)
			mu.Lock()
			text.Write(buf[:n])
			mu.Unlock()
			if err != nil {
				return
			}
		}
	}()
	eventually(t, "the first size", has("11 22\r\nready\r\n"))
	if err := p.Resize(wire.Size{Rows: 33, Cols: 44}); err != nil {
		t.Fatal(err)
	}
	exit, err := p.Wait()
	if err != nil || exit.Code != 4 {
		t.Errorf("got %+v, %v", exit, err)
	}
	eventually(t, "the second size", has("33 44\r\n"))
}

// TestTTYInterrupt types Ctrl-C.
func TestTTYInterrupt(t *testing.T) {
	t.Parallel()
	// Children of a process that ignores a signal ignore it too, and this one
	// may have been started in the background. With a handler they do not.
	caught := make(chan os.Signal, 1)
	signal.Notify(caught, os.Interrupt)
	defer signal.Stop(caught)
	c, _ := newClient(t, "/")
	in, keyboard := io.Pipe()
	out, w := io.Pipe()
	// What a shell is sent while it starts a program may pass that by, and the
	// shell looks at it only when the program has ended: none is a long one.
	const script = "trap 'exit 5' INT; echo ready; while :; do sleep 0.1; done"
	p, err := c.Exec(testContext(t), wire.ExecRequest{Args: []string{"sh", "-c", script}, Dir: "/", TTY: true}, agent.Streams{Stdin: in, Stdout: w})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, len("ready\r\n"))); err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = io.Copy(io.Discard, out) }()
	if _, err := keyboard.Write([]byte{3}); err != nil {
		t.Fatal(err)
	}
	if exit, err := p.Wait(); err != nil || exit.Code != 5 {
		t.Errorf("got %+v, %v", exit, err)
	}
}

func TestTTYEndOfInput(t *testing.T) {
	t.Parallel()
	c, _ := newClient(t, "/")
	got := run(t, c, wire.ExecRequest{Args: []string{"sh", "-c", "cat >/dev/null; echo end"}, TTY: true}, strings.NewReader("line\n"))
	if got.exit.Code != 0 || !strings.HasSuffix(got.stdout, "end\r\n") {
		t.Errorf("got %+v", got)
	}
}

// blocked is an input that has nothing until the test's end.
func blocked(t *testing.T) io.Reader {
	t.Helper()
	r, w := io.Pipe()
	t.Cleanup(func() { w.Close() })
	return r
}

func TestDial(t *testing.T) {
	t.Parallel()
	c, _ := newClient(t, "/")
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				// Half-close: everything is read before anything is answered.
				b, err := io.ReadAll(conn)
				if err == nil {
					_, _ = conn.Write(b)
				}
			}()
		}
	}()
	conn, err := c.Dial(testContext(t), l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	message := bytes.Repeat([]byte("0123456789abcdef"), 200_000)
	if _, err := conn.Write(message); err != nil {
		t.Fatal(err)
	}
	if err := conn.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(conn)
	if err != nil || !bytes.Equal(got, message) {
		t.Errorf("got %d bytes of %d, %v", len(got), len(message), err)
	}

	_, err = c.Dial(testContext(t), silentAddress(t))
	if e, ok := errors.AsType[*wire.Error](err); !ok || e.Kind != wire.ErrRefused {
		t.Errorf("nothing listens: %v", err)
	}
	if _, err := c.Dial(testContext(t), "nonsense"); err == nil {
		t.Error("an address that is none was dialled")
	}
}

// silentAddress is one that is taken, so that nobody else gets it, but where
// nothing listens.
func silentAddress(t *testing.T) string {
	t.Helper()
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Close(fd) })
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	name, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	return "127.0.0.1:" + strconv.Itoa(name.(*syscall.SockaddrInet4).Port)
}

// TestDialClose ends the guest's connection when the host's is closed, though
// the guest keeps writing.
func TestDialClose(t *testing.T) {
	t.Parallel()
	c, _ := newClient(t, "/")
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		_, _ = io.Copy(conn, zeros{})
	}()
	conn, err := c.Dial(testContext(t), l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(conn, make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	_ = conn.SetReadDeadline(time.Now().Add(patience))
	conn.Close()
	select {
	case <-ended:
	case <-time.After(patience):
		t.Error("the guest's connection goes on")
	}
}

func TestPorts(t *testing.T) {
	t.Parallel()
	c, _ := newClient(t, "/")
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ports, err := c.Ports(testContext(t))
	if err != nil {
		t.Fatal(err)
	}
	want := l.Addr().(*net.TCPAddr).Port
	i := slices.IndexFunc(ports, func(p wire.Port) bool { return p.Port == want })
	if i < 0 || ports[i].Address != "127.0.0.1" || ports[i].PID != os.Getpid() || ports[i].Process == "" {
		t.Errorf("port %d in %+v", want, ports)
	}
}

func TestFiles(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	c, _ := newClient(t, root)
	var stream bytes.Buffer
	w := tar.NewWriter(&stream)
	when := time.Unix(1_700_000_000, 0)
	for _, e := range []struct {
		header  tar.Header
		content string
	}{
		{tar.Header{Name: "d/", Typeflag: tar.TypeDir, Mode: 0o750}, ""},
		{tar.Header{Name: "d/file", Typeflag: tar.TypeReg, Mode: 0o640}, "content"},
		{tar.Header{Name: "d/hard", Typeflag: tar.TypeLink, Linkname: "d/file"}, ""},
		{tar.Header{Name: "d/link", Typeflag: tar.TypeSymlink, Linkname: "/elsewhere"}, ""},
	} {
		e.header.ModTime, e.header.Size = when, int64(len(e.content))
		e.header.Uid, e.header.Gid = os.Getuid(), os.Getgid()
		if err := w.WriteHeader(&e.header); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := c.Upload(testContext(t), "/some/where", &stream); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(filepath.Join(root, "some/where/d/file"))
	if err != nil || info.Mode().Perm() != 0o640 || !info.ModTime().Equal(when) {
		t.Errorf("file: %v, %v", info, err)
	}

	got := map[string]string{}
	body, err := c.Download(testContext(t), "/some/where/d")
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	for r := tar.NewReader(body); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		got[h.Name] = string(b) + h.Linkname
	}
	for name, want := range map[string]string{"d/": "", "d/link": "/elsewhere"} {
		if v, ok := got[name]; !ok || v != want {
			t.Errorf("%s is %q, %v", name, v, ok)
		}
	}
	// Either name of the file may come first.
	if names := got["d/file"] + got["d/hard"]; names != "contentd/file" && names != "d/hardcontent" {
		t.Errorf("the two names of the file give %q", got)
	}
}

func TestFileErrors(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	c, _ := newClient(t, root)
	ctx := testContext(t)
	_, err := c.Download(ctx, "/nothing")
	if e, ok := errors.AsType[*wire.Error](err); !ok || e.Kind != wire.ErrNotFound {
		t.Errorf("got %v", err)
	}
	if err := c.Upload(ctx, "relative", strings.NewReader("")); err == nil {
		t.Error("a relative path was taken")
	}
	if err := c.Upload(ctx, "/dir", strings.NewReader("this is not a tar stream, however one looks at it"+strings.Repeat(".", 1000))); err == nil {
		t.Error("nonsense was unpacked")
	}
	if err := os.Symlink("/etc", filepath.Join(root, "etc")); err != nil {
		t.Fatal(err)
	}
	if body, err := c.Download(ctx, "/etc/passwd"); err == nil {
		body.Close()
		t.Error("a link led out of the root")
	}
}

// TestCancelledDownload leaves nothing in the guest.
func TestCancelledDownload(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	file, err := os.Create(filepath.Join(root, "big"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := file.Truncate(1 << 30); err != nil {
		t.Fatal(err)
	}
	c, _ := newClient(t, root)
	ctx, cancel := context.WithCancel(testContext(t))
	body, err := c.Download(ctx, "/big")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(body, make([]byte, 100_000)); err != nil {
		t.Fatal(err)
	}
	cancel()
	body.Close()
	// The session still works; its end waits for the handler.
	if _, err := c.Hello(testContext(t)); err != nil {
		t.Error(err)
	}
}
