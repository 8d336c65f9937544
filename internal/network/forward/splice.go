package forward

import (
	"context"
	"io"
	"net"
	"sync"
	"time"

	"banger/internal/agent"
	"banger/internal/agent/wire"
)

// dialTimeout bounds the wait for a connection inside the guest. An emulated one
// with a hundred of them to make at once is slow, and who connects waits as long
// for any other host.
const dialTimeout = 75 * time.Second

// accept serves one port until its listener is closed.
func (f *Forwarder) accept(s *served) {
	for {
		conn, err := s.listener.Accept()
		if err != nil {
			if f.stillServes(s) {
				// Out of descriptors, say: others will free some.
				f.log.WarnContext(f.ctx, "cannot accept a connection to a guest", "address", f.address, "port", s.port, "error", err)
				select {
				case <-time.After(lastRetry):
					continue
				case <-f.ctx.Done():
				}
			}
			return
		}
		select {
		case f.conns <- struct{}{}:
		case <-f.ctx.Done():
			_ = conn.Close()
			return
		}
		f.wait.Go(func() {
			defer func() { <-f.conns }()
			f.carry(conn.(*net.TCPConn), s)
		})
	}
}

func (f *Forwarder) stillServes(s *served) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.served[s.port] == s
}

func (f *Forwarder) targets(s *served) []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return s.targets
}

// carry connects one connection to the guest.
func (f *Forwarder) carry(conn *net.TCPConn, s *served) {
	guest, err := f.dial(s)
	if err != nil {
		f.log.DebugContext(f.ctx, "cannot connect to a guest's port", "address", f.address, "port", s.port, "error", err)
		reset(conn)
		return
	}
	stop := context.AfterFunc(f.ctx, func() {
		reset(conn)
		_ = guest.Close()
	})
	defer stop()
	splice(conn, guest)
}

func (f *Forwarder) dial(s *served) (guest *agent.Conn, err error) {
	ctx, cancel := context.WithTimeout(f.ctx, dialTimeout)
	defer cancel()
	for _, target := range f.targets(s) {
		if guest, err = f.guest.Dial(ctx, target); err == nil {
			return guest, nil
		}
	}
	return nil, err
}

// reset ends a connection as if its other end had crashed: data that was not
// sent is dropped, and the peer sees "connection reset".
func reset(conn *net.TCPConn) {
	_ = conn.SetLinger(0) // fails only on a closed one
	_ = conn.Close()
}

// splice carries bytes both ways until both directions have ended or either
// end was reset, which the other one is then too.
func splice(conn *net.TCPConn, guest *agent.Conn) {
	abort := sync.OnceFunc(func() {
		reset(conn)
		_ = guest.Close()
	})
	var both sync.WaitGroup
	both.Go(func() { // plain buffers of the channel's size: anything else would be cut into those
		_, err := io.CopyBuffer(struct{ io.Writer }{guest}, struct{ io.Reader }{conn}, make([]byte, wire.MaxPayload))
		if err == nil {
			err = guest.CloseWrite()
		}
		if err != nil {
			abort()
		}
	})
	both.Go(func() {
		_, err := io.CopyBuffer(struct{ io.Writer }{conn}, struct{ io.Reader }{guest}, make([]byte, wire.MaxPayload))
		if err == nil {
			err = conn.CloseWrite()
		}
		if err != nil {
			abort()
		}
	})
	both.Wait()
	_ = conn.Close()
	_ = guest.Close()
}
