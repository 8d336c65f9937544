package mux

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

// patience is how long something that must happen may take.
const patience = 60 * time.Second

// port plays the virtio port: a unix socket that takes one host after the
// other, whose bytes can be tampered with.
type port struct {
	listener net.Listener
	path     string
}

func newPort(t *testing.T) *port {
	t.Helper()
	path := filepath.Join(t.TempDir(), "port")
	l, err := net.Listen("unix", path) //nolint:noctx // a test's socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return &port{l, path}
}

func (p *port) next(context.Context) (io.ReadWriteCloser, error) { return p.listener.Accept() }

func (p *port) dial(t *testing.T) net.Conn {
	t.Helper()
	conn, err := new(net.Dialer).DialContext(t.Context(), "unix", p.path)
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

func serveOn(t *testing.T, p *port, handle func(net.Conn)) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background()) //nolint:usetesting // must end in the cleanup, not before
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = Serve(ctx, p.next, handle)
	}()
	t.Cleanup(func() {
		cancel()
		p.listener.Close()
		select {
		case <-done:
		case <-time.After(patience):
			t.Error("Serve did not return")
		}
	})
}

func echo(conn net.Conn) {
	defer conn.Close()
	_, _ = io.Copy(conn, conn)
}

func client(t *testing.T, conn net.Conn) *Session {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	s, err := Client(ctx, conn)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// exchange sends a message on a new stream and expects it back.
func exchange(t *testing.T, s *Session, message []byte) {
	t.Helper()
	conn, err := s.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	go func() { _, _ = conn.Write(message) }()
	got := make([]byte, len(message))
	if _, err := io.ReadFull(conn, got); err != nil {
		t.Fatalf("cannot read the echo: %v", err)
	}
	if !bytes.Equal(got, message) {
		t.Fatal("the echo differs")
	}
}

func TestEcho(t *testing.T) {
	t.Parallel()
	p := newPort(t)
	serveOn(t, p, echo)
	s := client(t, p.dial(t))
	var all sync.WaitGroup
	for i := range 20 {
		all.Go(func() { exchange(t, s, bytes.Repeat([]byte{byte(i)}, 300_000)) })
	}
	all.Wait()
}

func TestReconnect(t *testing.T) {
	t.Parallel()
	p := newPort(t)
	serveOn(t, p, echo)
	for range 5 {
		s := client(t, p.dial(t))
		exchange(t, s, []byte("hello"))
		s.Close()
		<-s.Done()
		if _, err := s.Open(t.Context()); err == nil {
			t.Fatal("a closed session opened a stream")
		}
	}
}

// TestStaleBytes connects hosts and guests over a pipe with leftovers of an
// earlier session in both directions.
func TestStaleBytes(t *testing.T) {
	t.Parallel()
	old := string(line(helloWord, "00112233445566778899aabbccddeeff"))
	oldGo := string(line(goWord, "00112233445566778899aabbccddeeff"))
	frame := string(append([]byte{0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0xff, 0xff}, make([]byte, 1000)...))
	for name, stale := range map[string]string{
		"nothing":           "",
		"a frame":           frame,
		"half a line":       "\nbanger-mux-1 hel",
		"an old hello":      old,
		"an old session":    old + oldGo + frame,
		"no newline at all": string(bytes.Repeat([]byte{'x'}, 3*readBuffer)),
		"old answers":       string(line(okWord, "00112233445566778899aabbccddeeff")),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPort(t)
			// As with the real port, the host's end stays when the guest
			// closes its own and opens it again.
			var once sync.Once
			var guest net.Conn
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			go func() {
				_ = Serve(ctx, func(context.Context) (io.ReadWriteCloser, error) {
					var err error
					once.Do(func() { guest, err = p.listener.Accept() })
					return unclosable{guest}, err
				}, echo)
			}()
			conn := p.dial(t)
			if _, err := io.WriteString(conn, stale); err != nil {
				t.Fatal(err)
			}
			exchange(t, client(t, conn), []byte("hello"))
		})
		t.Run(name+" from the guest", func(t *testing.T) {
			t.Parallel()
			p := newPort(t)
			go func() {
				conn, err := p.listener.Accept()
				if err != nil {
					return
				}
				_, _ = io.WriteString(conn, stale)
				_ = serve(t.Context(), conn, echo)
			}()
			exchange(t, client(t, p.dial(t)), []byte("hello"))
		})
	}
}

// TestUnseenReconnect gives the guest a new host without an end of the old
// one's stream, in the middle of a frame.
func TestUnseenReconnect(t *testing.T) {
	t.Parallel()
	p := newPort(t)
	guest, pipe := net.Pipe()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ports := make(chan io.ReadWriteCloser, 2)
	// The second time the same bytes go on: closing is not noticed.
	ports <- unclosable{guest}
	ports <- unclosable{guest}
	go func() {
		_ = Serve(ctx, func(ctx context.Context) (io.ReadWriteCloser, error) {
			select {
			case p := <-ports:
				return p, nil
			case <-ctx.Done():
				return nil, context.Cause(ctx)
			}
		}, echo)
	}()
	// Splices the present host to the guest.
	hosts := make(chan net.Conn)
	go func() {
		for host := range hosts {
			_, _ = io.Copy(pipe, host)
			host.Close()
		}
	}()
	var mu sync.Mutex
	var current net.Conn
	go func() {
		buf := make([]byte, 4096)
		for {
			n, err := pipe.Read(buf)
			if err != nil {
				return
			}
			mu.Lock()
			if current != nil {
				_, _ = current.Write(buf[:n])
			}
			mu.Unlock()
		}
	}()
	connect := func() net.Conn {
		host := p.dial(t)
		other, err := p.listener.Accept()
		if err != nil {
			t.Fatal(err)
		}
		mu.Lock()
		current = other
		mu.Unlock()
		hosts <- other
		return host
	}
	first := connect()
	exchange(t, client(t, first), []byte("hello"))
	// A data frame for the maximum that never comes.
	if _, err := first.Write([]byte{0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0xff, 0xf4}); err != nil {
		t.Log(err) // the session may have been closed by its cleanup only
	}
	first.Close()
	exchange(t, client(t, connect()), []byte("hello"))
	close(hosts)
	guest.Close()
}

type unclosable struct{ net.Conn }

func (unclosable) Close() error { return nil }

// TestNoHeadOfLineBlocking has one stream that nobody reads.
func TestNoHeadOfLineBlocking(t *testing.T) {
	t.Parallel()
	p := newPort(t)
	stuck := make(chan struct{})
	release := make(chan struct{})
	serveOn(t, p, func(conn net.Conn) {
		defer conn.Close()
		b := make([]byte, 1)
		if _, err := io.ReadFull(conn, b); err != nil {
			return
		}
		if b[0] == 'S' {
			close(stuck)
			<-release
			return
		}
		_, _ = conn.Write(b)
		_, _ = io.Copy(conn, conn)
	})
	defer close(release)
	s := client(t, p.dial(t))
	blocked, err := s.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer blocked.Close()
	written := make(chan error, 1)
	go func() {
		_, err := blocked.Write(append([]byte("S"), make([]byte, 8<<20)...))
		written <- err
	}()
	<-stuck
	for range 5 {
		exchange(t, s, []byte("hello"))
	}
	select {
	case err := <-written:
		t.Errorf("8 MiB that nobody reads were written: %v", err)
	default:
	}
	// Close frees a write that waits.
	blocked.Close()
	select {
	case err := <-written:
		if err == nil {
			t.Error("the write succeeded")
		}
	case <-time.After(patience):
		t.Error("the write still waits")
	}
}

func TestPeersCloseIsSeen(t *testing.T) {
	t.Parallel()
	p := newPort(t)
	guest := make(chan error, 1)
	serveOn(t, p, func(conn net.Conn) {
		defer conn.Close()
		_, err := io.Copy(io.Discard, conn)
		guest <- err
	})
	s := client(t, p.dial(t))
	conn, err := s.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
	select {
	case err := <-guest:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(patience):
		t.Error("the guest does not see the close")
	}
}

func TestSessionEndsWithItsPipe(t *testing.T) {
	t.Parallel()
	p := newPort(t)
	ended := make(chan struct{})
	go func() {
		conn, err := p.listener.Accept()
		if err != nil {
			return
		}
		_ = serve(t.Context(), struct {
			io.Reader
			io.WriteCloser
		}{conn, conn}, func(stream net.Conn) {
			conn.Close() // the guest is gone
			stream.Close()
			close(ended)
		})
	}()
	s := client(t, p.dial(t))
	conn, err := s.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		t.Error("read from a guest that is gone")
	}
	<-ended
	select {
	case <-s.Done():
	case <-time.After(patience):
		t.Error("the session goes on without its pipe")
	}
}

func TestClientGivesUp(t *testing.T) {
	t.Parallel()
	p := newPort(t)
	// Nobody answers, as while a guest boots.
	ctx, cancel := context.WithCancelCause(t.Context())
	reason := errors.New("the user has had enough")
	go func() {
		conn, err := p.listener.Accept()
		if err != nil {
			return
		}
		_, _ = io.ReadFull(conn, make([]byte, 20)) // the first hello
		cancel(reason)
	}()
	if _, err := Client(ctx, p.dial(t)); !errors.Is(err, reason) {
		t.Errorf("got %v", err)
	}
}

func TestGuestCannotOpenStreams(t *testing.T) {
	t.Parallel()
	p := newPort(t)
	s := client(t, func() net.Conn {
		go func() {
			conn, err := p.listener.Accept()
			if err != nil {
				return
			}
			if _, err := accept(conn); err != nil {
				return
			}
			// SYN for stream 2.
			_, _ = conn.Write([]byte{0, 1, 0, 1, 0, 0, 0, 2, 0, 0, 0, 0})
			_, _ = io.Copy(io.Discard, conn)
		}()
		return p.dial(t)
	}())
	// The session goes on; what the guest opened is not there.
	if n := s.y.NumStreams(); n != 0 {
		t.Errorf("the guest opened %d streams", n)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("banger-mux-1 hello 00112233445566778899aabbccddeeff\n"))
	f.Add([]byte("banger-mux-1 go 0011\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, word := range []string{helloWord, okWord, goWord} {
			if nonce, ok := parse(b, word); ok && len(nonce) != nonceSize {
				t.Errorf("nonce %q", nonce)
			}
		}
	})
}

// FuzzAccept feeds the guest whatever a host may send.
func FuzzAccept(f *testing.F) {
	f.Add([]byte("\nbanger-mux-1 hello 00112233445566778899aabbccddeeff\n\nbanger-mux-1 go 00112233445566778899aabbccddeeff\n"))
	f.Fuzz(func(_ *testing.T, b []byte) {
		_, _ = accept(struct {
			io.Reader
			io.Writer
		}{bytes.NewReader(b), io.Discard})
	})
}
