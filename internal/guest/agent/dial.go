package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"syscall"
	"time"

	"banger/internal/agent/wire"
)

// dialTimeout bounds the wait for a TCP connection.
const dialTimeout = 60 * time.Second

func (s *Server) dial(w http.ResponseWriter, r *http.Request) error {
	if err := upgradable(r, wire.UpgradeDial); err != nil {
		return err
	}
	address := r.URL.Query().Get("address")
	if _, _, err := net.SplitHostPort(address); err != nil {
		return badRequest("cannot connect to %q: it is not host:port", address)
	}
	ctx, cancel := context.WithTimeout(r.Context(), dialTimeout)
	defer cancel()
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		answer := &wire.Error{Message: fmt.Sprintf("cannot connect to %q in the guest: %v", address, err)}
		if errors.Is(err, syscall.ECONNREFUSED) {
			answer.Kind = wire.ErrRefused
			answer.Message = fmt.Sprintf("cannot connect to %q in the guest: nothing listens there", address)
		}
		return answer
	}
	defer conn.Close()
	stream, frames, err := hijack(w, r, wire.UpgradeDial)
	if err != nil {
		return err
	}
	defer stream.Close()
	relay(conn.(*net.TCPConn), stream, frames)
	return nil
}

// relay serves a dialled connection until both its directions have ended or
// either side is gone.
func relay(conn *net.TCPConn, stream net.Conn, frames *wire.FrameReader) {
	w := wire.NewFrameWriter(stream)
	in, out := wire.NewReceiver(w), wire.NewSender(w)
	go func() {
		for {
			t, b, err := frames.ReadFrame()
			if err == nil {
				switch t {
				case wire.FrameData:
					err = in.Push(b)
				case wire.FrameEOF:
					in.End(io.EOF)
				case wire.FrameCredit:
					err = out.Allow(b)
				case wire.FrameStdout, wire.FrameStderr, wire.FrameResize, wire.FrameSignal, wire.FrameExit, wire.FrameError:
					err = errors.New("a frame that is not for connections")
				default:
					err = errors.New("unknown frame")
				}
			}
			if err != nil {
				// The host is gone: so is the connection. That is no end of
				// the input, which would be passed on as such.
				if errors.Is(err, io.EOF) {
					err = io.ErrUnexpectedEOF
				}
				in.End(err)
				out.Fail(err)
				_ = conn.SetLinger(0)
				_ = conn.Close()
				return
			}
		}
	}()
	var both sync.WaitGroup
	both.Go(func() {
		if _, err := io.Copy(struct{ io.Writer }{conn}, in); err == nil {
			_ = conn.CloseWrite()
		}
	})
	both.Go(func() {
		_, err := io.CopyBuffer(struct{ io.Writer }{out}, struct{ io.Reader }{conn}, make([]byte, wire.MaxPayload))
		if err == nil {
			err = out.CloseWrite()
		}
		if err != nil {
			// A reset, say: the other direction has no sense either.
			_ = w.WriteFrame(wire.FrameError, []byte(err.Error()))
			stream.Close()
		}
	})
	both.Wait()
}
