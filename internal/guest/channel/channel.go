// Package channel is the guest's end of the agent channel: a virtio-serial
// port, multiplexed, or a vsock port, whichever the VMM has given the guest.
package channel

import (
	"context"
	"errors"
	"io"
	"math"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/mdlayher/vsock"

	"banger/internal/agent/mux"
	"banger/internal/agent/wire"
)

// deviceTimeout bounds the wait for the channel's device: its driver may still
// be loading.
const deviceTimeout = 20 * time.Second

// Listen waits for the channel's device and returns its streams as
// connections, until ctx ends or the listener is closed.
func Listen(ctx context.Context) (net.Listener, error) {
	timeout, cancel := context.WithTimeout(ctx, deviceTimeout)
	defer cancel()
	for {
		if port := findPort("/sys/class/virtio-ports", "/dev"); port != "" {
			return listenSerial(ctx, port), nil
		}
		// With the driver but no device it is the wildcard.
		if cid, err := vsock.ContextID(); err == nil && cid > vsock.Host && cid != math.MaxUint32 {
			return vsock.Listen(wire.VsockPort, nil)
		}
		select {
		case <-timeout.Done():
			return nil, errors.New("cannot find the agent channel: there is neither a virtio-serial port nor vsock")
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// findPort returns the device of the port with the agent's name, or "".
func findPort(class, dev string) string {
	names, err := filepath.Glob(filepath.Join(class, "*", "name"))
	if err != nil {
		return ""
	}
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err == nil && strings.TrimSpace(string(b)) == wire.SerialPort {
			device := filepath.Join(dev, filepath.Base(filepath.Dir(name)))
			if _, err := os.Stat(device); err == nil {
				return device
			}
		}
	}
	return ""
}

func listenSerial(ctx context.Context, device string) net.Listener {
	return newListener(ctx, func(ctx context.Context) (io.ReadWriteCloser, error) {
		return openPort(ctx, device)
	})
}

// listener hands out the streams of one mux session after the other.
type listener struct {
	conns  chan net.Conn
	cancel context.CancelFunc
	done   chan struct{}
	err    error // valid when done is closed
}

func newListener(ctx context.Context, next func(context.Context) (io.ReadWriteCloser, error)) net.Listener {
	ctx, cancel := context.WithCancel(ctx)
	l := &listener{conns: make(chan net.Conn), cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(l.done)
		l.err = mux.Serve(ctx, next, func(conn net.Conn) {
			select {
			case l.conns <- conn:
			case <-ctx.Done():
				conn.Close()
			}
		})
		if ctx.Err() != nil {
			l.err = net.ErrClosed
		}
	}()
	return l
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.conns:
		return conn, nil
	case <-l.done:
		return nil, l.err
	}
}

func (l *listener) Close() error {
	l.cancel()
	<-l.done
	return nil
}

func (l *listener) Addr() net.Addr { return addr{} }

type addr struct{}

func (addr) Network() string { return "virtio" }
func (addr) String() string  { return wire.SerialPort }
