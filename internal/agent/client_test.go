package agent_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"banger/internal/agent"
	"banger/internal/agent/wire"
)

// FuzzAnswers has a guest answer anything to what it is asked.
func FuzzAnswers(f *testing.F) {
	for status, body := range map[int]string{
		200: `{"version":1,"boot_id":"x","configured":true}`,
		204: ``,
		206: `[{"address":"127.0.0.1","port":22,"pid":1,"process":"sshd"}]` + "\n" + `[]`,
		404: `{"kind":"not_found","message":"no such file"}`,
		500: `[[[[`,
		101: "\x00\x00\x00\x04\x02abcd",
	} {
		f.Add(uint16(status), []byte(body))
	}
	f.Fuzz(func(t *testing.T, status uint16, body []byte) {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		client := agent.New(func(context.Context) (net.Conn, error) {
			ours, theirs := net.Pipe()
			go answer(theirs, int(status), body)
			return ours, nil
		})
		if hello, err := client.Hello(ctx); err == nil && hello.Version != wire.Version {
			t.Errorf("it says hello in version %d", hello.Version)
		}
		_, _ = client.Stats(ctx)
		_, _ = client.Ready(ctx)
		if ports, err := client.Ports(ctx); err == nil && len(ports) > len(body) {
			t.Errorf("%d bytes are %d ports", len(body), len(ports))
		}
		if err := client.WatchPorts(ctx, func([]wire.Port) {}); err == nil {
			t.Error("a watch has ended well")
		}
		if tar, err := client.Download(ctx, "/x"); err == nil {
			if n, err := io.Copy(io.Discard, tar); err == nil && n > int64(len(body)) {
				t.Errorf("%d bytes became %d", len(body), n)
			}
			_ = tar.Close()
		}
		if process, err := client.Exec(ctx, wire.ExecRequest{Args: []string{"true"}}, agent.Streams{Stdout: io.Discard, Stderr: io.Discard}); err == nil {
			_, _ = process.Wait()
		}
		if ctx.Err() != nil {
			t.Errorf("a guest that has ended is waited for: status %d, %q", status, body)
		}
	})
}

// answer reads one request and answers it, once.
func answer(conn net.Conn, status int, body []byte) {
	defer conn.Close()
	request, err := http.ReadRequest(bufio.NewReader(conn))
	if err != nil {
		return
	}
	fmt.Fprintf(conn, "HTTP/1.1 %d X\r\n", status)
	if protocol := request.Header.Get("Upgrade"); protocol != "" {
		fmt.Fprintf(conn, "Connection: Upgrade\r\nUpgrade: %s\r\n", strings.TrimSpace(protocol))
	}
	_, _ = conn.Write(append([]byte("\r\n"), body...))
}

// guest is one whose agent answers everything, at a socket.
func guest(t *testing.T, path string, state func(net.Conn, http.ConnState)) *http.Server {
	t.Helper()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "unix", path)
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{ReadHeaderTimeout: time.Minute, ConnState: state, Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, `{"version":%d}`, wire.Version)
	})}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
	return server
}

// TestStreamIsKept has the next call use the stream of the one before, unless the
// guest has ended meanwhile, and then not for long.
func TestStreamIsKept(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "s")
	var dials atomic.Int32
	client := agent.New(func(ctx context.Context) (net.Conn, error) {
		dials.Add(1)
		return new(net.Dialer).DialContext(ctx, "unix", path)
	})
	expect := func(want int32) {
		t.Helper()
		if _, err := client.Hello(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := dials.Load(); got != want {
			t.Errorf("%d streams were opened, want %d", got, want)
		}
	}
	first := guest(t, path, nil)
	expect(1)
	expect(1)
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	closed := make(chan struct{})
	guest(t, path, func(_ net.Conn, state http.ConnState) {
		if state == http.StateClosed {
			close(closed)
		}
	})
	expect(2)
	select {
	case <-closed:
	case <-time.After(20 * time.Second):
		t.Error("a stream that nobody uses is kept")
	}
}

// TestUnasked looks where net/http says what a guest sends that nobody asked for.
func TestUnasked(t *testing.T) {
	t.Parallel()
	if log.Writer() != io.Discard {
		t.Error("a guest writes into the log of the program")
	}
}
