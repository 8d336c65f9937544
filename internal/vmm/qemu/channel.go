package qemu

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"

	"banger/internal/agent/mux"
)

// channel is the one pipe to a guest's agent, with a session on it that
// carries many streams. The session is made when the first stream is wanted,
// and again when it broke.
type channel struct {
	path string
	// ctx ends with the machine.
	ctx    context.Context
	cancel context.CancelCauseFunc

	mu      sync.Mutex // held for moments, never while talking to the guest
	session *mux.Session
	attempt *attempt // under way
}

// attempt at a session, which all who wait share. Its result is set before
// done is closed.
type attempt struct {
	done    chan struct{}
	session *mux.Session
	err     error
}

var errEnded = errors.New("the VM has ended or was let go")

func newChannel(path string) *channel {
	c := &channel{path: path}
	// The session is the machine's, not that of the caller who needs it first.
	c.ctx, c.cancel = context.WithCancelCause(context.Background())
	return c
}

// dial opens a stream. While the guest boots it waits, until ctx ends.
func (c *channel) dial(ctx context.Context) (net.Conn, error) {
	for first := true; ; first = false {
		session, err := c.connect(ctx)
		if err != nil {
			return nil, err
		}
		stream, err := session.Open(ctx)
		if err == nil {
			return stream, nil
		}
		select {
		case <-session.Done():
			if first && ctx.Err() == nil {
				continue // it had broken before, and nobody had noticed
			}
		default:
		}
		return nil, err
	}
}

// connect returns the session, making it if there is none that works.
func (c *channel) connect(ctx context.Context) (*mux.Session, error) {
	c.mu.Lock()
	if c.session != nil {
		select {
		case <-c.session.Done():
			c.session = nil
		default:
			defer c.mu.Unlock()
			return c.session, nil
		}
	}
	a := c.attempt
	if a == nil {
		a = &attempt{done: make(chan struct{})}
		c.attempt = a
		go c.try(a)
	}
	c.mu.Unlock()
	select {
	case <-a.done:
		return a.session, a.err
	case <-ctx.Done():
		return nil, fmt.Errorf("cannot reach the guest's agent: %w", context.Cause(ctx))
	}
}

func (c *channel) try(a *attempt) {
	session, err := c.handshake()
	c.mu.Lock()
	closed := c.ctx.Err() != nil // close takes the session under the lock
	if !closed {
		c.session = session
	}
	c.attempt = nil
	c.mu.Unlock()
	if closed && err == nil {
		_ = session.Close()
		session, err = nil, fmt.Errorf("cannot reach the guest's agent: %w", errEnded)
	}
	a.session, a.err = session, err
	close(a.done)
}

func (c *channel) handshake() (*mux.Session, error) {
	conn, err := new(net.Dialer).DialContext(c.ctx, "unix", c.path)
	if err != nil {
		return nil, fmt.Errorf("cannot reach the guest's agent: %w", err)
	}
	return mux.Client(c.ctx, conn)
}

// close ends the session and every attempt at one, for good.
func (c *channel) close() {
	c.cancel(errEnded)
	c.mu.Lock()
	session := c.session
	c.mu.Unlock()
	if session != nil {
		_ = session.Close()
	}
}
