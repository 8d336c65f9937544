package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"time"

	"banger/internal/agent/wire"
)

// Conn is a TCP connection that was made in the guest: a net.Conn whose two
// directions can be ended one by one.
type Conn struct {
	address string
	conn    io.Closer
	out     *wire.Sender
	in      *wire.Receiver
}

var _ net.Conn = (*Conn)(nil)

// Dial connects to a TCP address, host:port, from inside the guest. The
// connection does not end with ctx. An address where nothing listens is a
// *[wire.Error] of kind wire.ErrRefused.
func (c *Client) Dial(ctx context.Context, address string) (*Conn, error) {
	stream, err := c.upgrade(ctx, "/v1/dial?address="+url.QueryEscape(address), wire.UpgradeDial, nil)
	if err != nil {
		return nil, err
	}
	w := wire.NewFrameWriter(stream)
	d := &Conn{address: address, conn: stream, out: wire.NewSender(w), in: wire.NewReceiver(w)}
	go d.receive(wire.NewFrameReader(stream))
	return d, nil
}

// receive takes what the guest sends until the stream's end.
func (d *Conn) receive(r *wire.FrameReader) {
	err := func() error {
		for {
			t, b, err := r.ReadFrame()
			if err != nil {
				if errors.Is(err, io.EOF) {
					err = errors.New("the connection to the guest was lost")
				}
				return err
			}
			switch t {
			case wire.FrameData:
				err = d.in.Push(b)
			case wire.FrameEOF:
				d.in.End(io.EOF)
			case wire.FrameCredit:
				err = d.out.Allow(b)
			case wire.FrameError:
				err = errors.New(string(b))
			case wire.FrameStdout, wire.FrameStderr, wire.FrameResize, wire.FrameSignal, wire.FrameExit:
				err = errors.New("a frame that is not for connections")
			default:
				err = fmt.Errorf("unknown frame %d", t)
			}
			if err != nil {
				return err
			}
		}
	}()
	err = fmt.Errorf("cannot follow a connection in the guest: %w", err)
	d.in.End(err) // after FrameEOF this changes nothing
	d.out.Fail(err)
	d.conn.Close()
}

// Read reads what the guest's end wrote; io.EOF when that end was closed.
func (d *Conn) Read(p []byte) (int, error) { return d.in.Read(p) }

// Write sends to the guest's end.
func (d *Conn) Write(p []byte) (int, error) { return d.out.Write(p) }

// CloseWrite ends this direction; the other goes on.
func (d *Conn) CloseWrite() error { return d.out.CloseWrite() }

// Close ends both directions.
func (d *Conn) Close() error {
	d.out.Fail(net.ErrClosed)
	d.in.End(net.ErrClosed)
	return d.conn.Close()
}

// LocalAddr names this end.
func (d *Conn) LocalAddr() net.Addr { return guestAddr("host") }

// RemoteAddr is the address that was dialled.
func (d *Conn) RemoteAddr() net.Addr { return guestAddr(d.address) }

// SetDeadline implements net.Conn.
func (d *Conn) SetDeadline(t time.Time) error {
	d.in.SetDeadline(t)
	d.out.SetDeadline(t)
	return nil
}

// SetReadDeadline implements net.Conn.
func (d *Conn) SetReadDeadline(t time.Time) error {
	d.in.SetDeadline(t)
	return nil
}

// SetWriteDeadline implements net.Conn. It limits the wait for the guest to
// take more, not that for the stream to the guest.
func (d *Conn) SetWriteDeadline(t time.Time) error {
	d.out.SetDeadline(t)
	return nil
}

// guestAddr is an address in a guest.
type guestAddr string

func (guestAddr) Network() string  { return "banger" }
func (a guestAddr) String() string { return string(a) }
