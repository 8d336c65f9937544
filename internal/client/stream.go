package client

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"banger/internal/api"
)

// Stream is a connection that was upgraded to raw bytes.
type Stream struct {
	net.Conn
	reader *bufio.Reader
}

// Read reads what came with the answer to the upgrade first.
func (s *Stream) Read(p []byte) (int, error) {
	if s.reader.Buffered() > 0 {
		return s.reader.Read(p)
	}
	return s.Conn.Read(p)
}

// CloseWrite tells the other side that nothing more comes.
func (s *Stream) CloseWrite() error {
	half, ok := s.Conn.(interface{ CloseWrite() error })
	if !ok {
		return errors.New("this connection cannot be closed for writing alone")
	}
	return half.CloseWrite()
}

// upgrade switches a request's connection to raw bytes. ctx matters until
// then only.
func (c *Client) upgrade(ctx context.Context, path, protocol string) (*Stream, error) {
	x, err := c.send(ctx, http.MethodGet, path, nil, protocol, hangUp)
	if err != nil {
		return nil, err
	}
	if x.stop(); x.resp.StatusCode != http.StatusSwitchingProtocols {
		x.close()
		return nil, &api.Error{Kind: api.KindInternal, Message: "bangerd gave an answer that banger does not understand: " + x.resp.Status}
	}
	return &Stream{Conn: x.conn, reader: x.reader}, nil
}

// DialAgent opens a byte stream to the agent in the guest of a running VM.
func (c *Client) DialAgent(ctx context.Context, ref string) (net.Conn, error) {
	stream, err := c.upgrade(ctx, vmPath(ref, "/agent"), "banger-agent")
	if err != nil {
		return nil, err
	}
	return stream, nil
}

// Hold keeps an ephemeral VM from being deleted until release is called or
// this process ends. A bangerd that is restarted meanwhile is asked again.
func (c *Client) Hold(ctx context.Context, ref string) (release func(), err error) {
	stream, err := c.upgrade(ctx, vmPath(ref, "/hold"), "banger-hold")
	if err != nil {
		return nil, fmt.Errorf("cannot hold VM %q: %w", ref, err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan struct{})
	go func() {
		defer close(done)
		c.keepHolding(ctx, ref, stream)
	}()
	return func() { cancel(); <-done }, nil
}

// keepHolding reads, which blocks until bangerd or we end the connection.
func (c *Client) keepHolding(ctx context.Context, ref string, stream *Stream) {
	for {
		stop := context.AfterFunc(ctx, func() { stream.Close() })
		var one [1]byte
		for {
			if _, err := stream.Read(one[:]); err != nil {
				break
			}
		}
		stop()
		stream.Close()
		next, ok := c.holdAgain(ctx, ref)
		if !ok {
			return
		}
		stream = next
	}
}

// holdAgain waits for the next bangerd. It gives up when there is no such VM.
func (c *Client) holdAgain(ctx context.Context, ref string) (*Stream, bool) {
	for pause(ctx, 20*time.Millisecond) == nil {
		stream, err := c.upgrade(ctx, vmPath(ref, "/hold"), "banger-hold")
		if err == nil {
			return stream, true
		}
		if answered, ok := errors.AsType[*api.Error](err); ok && answered.Kind != api.KindInternal {
			return nil, false
		}
	}
	return nil, false
}

// AgentDialer is [Client.DialAgent] for one VM.
func (c *Client) AgentDialer(ref string) func(ctx context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) { return c.DialAgent(ctx, ref) }
}
