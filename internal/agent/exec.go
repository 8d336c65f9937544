package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"syscall"

	"banger/internal/agent/wire"
)

// Streams are what a program in the guest reads and writes. Any may be nil: no
// input, output dropped.
type Streams struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
}

// Process is a program running in the guest. Its methods may be called from
// any goroutine.
type Process struct {
	conn io.ReadWriteCloser
	w    *wire.FrameWriter
	done chan struct{}
	exit wire.Exit
	err  error
}

// Exec starts a program in the guest. A program that cannot be started is a
// *[wire.Error] of kind wire.ErrNotFound or wire.ErrNotExecutable. When ctx
// ends, the guest kills the program. Stdin is read until its end or until the
// program's; a Read that blocks then stays behind, with what it reads lost.
func (c *Client) Exec(ctx context.Context, req wire.ExecRequest, streams Streams) (*Process, error) {
	conn, err := c.upgrade(ctx, "/v1/exec", wire.UpgradeExec, req)
	if err != nil {
		return nil, err
	}
	p := &Process{conn: conn, w: wire.NewFrameWriter(conn), done: make(chan struct{})}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	input := wire.NewSender(p.w)
	go func() {
		// An error of the connection is the reader's too, and one of stdin is
		// the input's end, as it would be a local program's.
		if streams.Stdin != nil {
			_, _ = io.CopyBuffer(struct{ io.Writer }{input}, struct{ io.Reader }{streams.Stdin}, make([]byte, wire.MaxPayload))
		}
		_ = input.CloseWrite()
	}()
	go func() {
		defer close(p.done)
		p.exit, p.err = p.read(streams, input)
		stop()
		input.Fail(net.ErrClosed)
		conn.Close()
		if p.err != nil && ctx.Err() != nil {
			p.err = fmt.Errorf("cannot run %q in the guest: %w", req.Args[0], context.Cause(ctx))
		}
	}()
	return p, nil
}

// Resize tells the program's terminal its new size.
func (p *Process) Resize(size wire.Size) error {
	return p.w.WriteFrame(wire.FrameResize, size.Encode())
}

// Signal sends a signal to the program's process group.
func (p *Process) Signal(signal syscall.Signal) error {
	return p.w.WriteFrame(wire.FrameSignal, []byte{byte(signal)})
}

// Wait waits until the program has ended and all its output is written. The
// error says that this could not be learnt.
func (p *Process) Wait() (wire.Exit, error) {
	<-p.done
	return p.exit, p.err
}

// read takes what the guest sends until the program's end.
func (p *Process) read(streams Streams, input *wire.Sender) (wire.Exit, error) {
	r := wire.NewFrameReader(p.conn)
	write := func(w io.Writer, b []byte) error {
		if w == nil {
			return nil
		}
		_, err := w.Write(b)
		return err
	}
	for {
		t, b, err := r.ReadFrame()
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = errors.New("the connection to the guest was lost")
			}
			return wire.Exit{}, fmt.Errorf("cannot follow a program in the guest: %w", err)
		}
		switch t {
		case wire.FrameStdout:
			if err := write(streams.Stdout, b); err != nil {
				return wire.Exit{}, fmt.Errorf("cannot write the output of a program in the guest: %w", err)
			}
		case wire.FrameStderr:
			if err := write(streams.Stderr, b); err != nil {
				return wire.Exit{}, fmt.Errorf("cannot write the error output of a program in the guest: %w", err)
			}
		case wire.FrameCredit:
			if err := input.Allow(b); err != nil {
				return wire.Exit{}, err
			}
		case wire.FrameExit:
			return wire.DecodeExit(b)
		case wire.FrameError:
			return wire.Exit{}, &wire.Error{Message: string(b)}
		case wire.FrameData, wire.FrameEOF, wire.FrameResize, wire.FrameSignal:
			return wire.Exit{}, errors.New("cannot follow a program in the guest: it sent a frame that is the host's")
		default:
			return wire.Exit{}, fmt.Errorf("cannot follow a program in the guest: unknown frame %d", t)
		}
	}
}
