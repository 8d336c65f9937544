// Package mux carries many byte streams over one: the virtio-serial port that
// connects a QEMU guest with its host. A session begins with a handshake that
// works whatever bytes of an earlier session are still in the pipe, then
// yamux takes over.
//
// Streams are not half-closed: Close ends both directions, and a peer that
// reads EOF must close its end as well. Protocols that need the end of one
// direction say it in their own framing.
package mux

import (
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"time"

	"github.com/hashicorp/yamux"
)

// maxWrite bounds one frame, so that a large stream does not keep the others
// waiting; with yamux's header it is two buffers of the guest's driver.
const maxWrite = 64<<10 - headerSize

// headerSize is that of every yamux frame.
const headerSize = 12

func config() *yamux.Config {
	return &yamux.Config{
		AcceptBacklog: 1024,
		// A guest that is paused or that has a slow emulated CPU must not lose
		// its session: nothing here is limited by time. A peer that is gone
		// shows as the end of the pipe.
		EnableKeepAlive:        false,
		KeepAliveInterval:      time.Hour,
		ConnectionWriteTimeout: 24 * time.Hour,
		StreamOpenTimeout:      0,
		// Bounds what a peer that never answers a close can hold.
		StreamCloseTimeout:  30 * time.Second,
		MaxStreamWindowSize: 1 << 20,
		Logger:              log.New(io.Discard, "", 0),
	}
}

// Session is the host's end. Its methods may be called from any goroutine.
type Session struct {
	y *yamux.Session
}

// Client starts a session on conn, which it owns from then on, and returns when
// the guest has answered: a guest that is still booting is waited for until ctx
// ends. After an error conn is closed.
func Client(ctx context.Context, conn net.Conn) (*Session, error) {
	r, err := connect(ctx, conn)
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("cannot reach the guest's agent: %w", err)
	}
	y, err := yamux.Client(&pipe{Reader: r, w: conn, c: conn}, config())
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("cannot start a session with the guest's agent: %w", err)
	}
	// The guest never opens streams; one that does gets a reset for each.
	if err := y.GoAway(); err != nil {
		_ = y.Close()
		return nil, fmt.Errorf("cannot start a session with the guest's agent: %w", err)
	}
	return &Session{y: y}, nil
}

// Open opens a new stream. It does not wait for the guest.
func (s *Session) Open(ctx context.Context) (net.Conn, error) {
	type result struct {
		stream *yamux.Stream
		err    error
	}
	// A pipe that is full makes yamux wait.
	done := make(chan result, 1)
	go func() {
		stream, err := s.y.OpenStream()
		done <- result{stream, err}
	}()
	select {
	case r := <-done:
		if r.err != nil {
			return nil, fmt.Errorf("cannot open a stream to the guest's agent: %w", r.err)
		}
		return &stream{Stream: r.stream}, nil
	case <-ctx.Done():
		go func() {
			if r := <-done; r.err == nil {
				_ = r.stream.Close()
			}
		}()
		return nil, fmt.Errorf("cannot open a stream to the guest's agent: %w", context.Cause(ctx))
	}
}

// Close ends the session, all its streams and the pipe. It is idempotent.
func (s *Session) Close() error { return s.y.Close() }

// Done is closed when the session has ended, by Close or because the pipe is
// gone.
func (s *Session) Done() <-chan struct{} { return s.y.CloseChan() }

// Serve is the guest's end. It calls next for a pipe to the host, which may
// block until there is one and whose pipe reads EOF when the host has left;
// serves one session on it, each stream by a call of handle on a goroutine of
// its own; closes it, and starts again. handle must close its stream. Serve
// returns when ctx ends or next fails.
func Serve(ctx context.Context, next func(context.Context) (io.ReadWriteCloser, error), handle func(net.Conn)) error {
	for ctx.Err() == nil {
		port, err := next(ctx)
		if err != nil {
			return err
		}
		// How a session ends is the host's business: the next one starts clean.
		_ = serve(ctx, port, handle)
		port.Close()
	}
	return context.Cause(ctx)
}

func serve(ctx context.Context, port io.ReadWriteCloser, handle func(net.Conn)) error {
	defer context.AfterFunc(ctx, func() { port.Close() })()
	r, err := accept(port)
	if err != nil {
		return err
	}
	y, err := yamux.Server(&pipe{Reader: r, w: port, c: port}, config())
	if err != nil {
		return err
	}
	defer func() { _ = y.Close() }()
	for {
		s, err := y.AcceptStream()
		if err != nil {
			return err
		}
		go handle(&stream{Stream: s})
	}
}

// stream keeps single frames small.
type stream struct {
	*yamux.Stream
}

func (s *stream) Write(p []byte) (int, error) {
	total := 0
	for {
		n, err := s.Stream.Write(p[:min(len(p), maxWrite)])
		total += n
		p = p[n:]
		if err != nil || len(p) == 0 {
			return total, err
		}
	}
}

// pipe is what yamux reads and writes. yamux writes the header and the body of
// a frame apart, from one goroutine; each write costs an exit from the guest,
// so they go as one.
type pipe struct {
	io.Reader
	w    io.Writer
	c    io.Closer
	held bool
	buf  []byte
}

func (p *pipe) Write(b []byte) (int, error) {
	if !p.held {
		p.buf = append(p.buf[:0], b...)
		// Byte 1 is the type, 0 for data; bytes 8 to 11 are the body's length.
		if len(b) == headerSize && b[1] == 0 && [4]byte(b[8:12]) != [4]byte{} {
			p.held = true
			return len(b), nil
		}
	} else {
		p.held = false
		p.buf = append(p.buf, b...)
	}
	if _, err := p.w.Write(p.buf); err != nil {
		return 0, err
	}
	return len(b), nil
}

func (p *pipe) Close() error { return p.c.Close() }
