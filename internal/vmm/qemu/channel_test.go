package qemu

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"banger/internal/agent/mux"
	"banger/internal/vmm/vmmtest"
)

// pipe is the socket of a QEMU in whose guest an agent echoes lines.
type pipe struct {
	path     string
	accepted atomic.Int32
	last     atomic.Pointer[net.Conn]
	// boots is closed when the guest has booted.
	boots chan struct{}
}

func newPipe(t *testing.T) *pipe {
	t.Helper()
	p := &pipe{path: filepath.Join(vmmtest.RunDir(t), "agent.sock"), boots: make(chan struct{})}
	l, err := net.Listen("unix", p.path) //nolint:noctx // ends with the test
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	served := make(chan struct{})
	t.Cleanup(func() {
		cancel()
		_ = l.Close()
		<-served
	})
	next := func(context.Context) (io.ReadWriteCloser, error) {
		conn, err := l.Accept()
		if err != nil {
			return nil, err
		}
		p.accepted.Add(1)
		p.last.Store(&conn)
		return conn, nil
	}
	go func() {
		defer close(served)
		select {
		case <-p.boots:
		case <-ctx.Done():
			return
		}
		_ = mux.Serve(ctx, next, func(conn net.Conn) {
			defer conn.Close()
			line, err := bufio.NewReader(conn).ReadString('\n')
			if err == nil {
				_, _ = io.WriteString(conn, line)
			}
		})
	}()
	return p
}

func echo(ctx context.Context, c *channel) error {
	conn, err := c.dial(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "hello\n"); err != nil {
		return err
	}
	if line, err := bufio.NewReader(conn).ReadString('\n'); line != "hello\n" {
		return fmt.Errorf("answer %q, %w", line, err)
	}
	return nil
}

func TestChannelIsShared(t *testing.T) {
	t.Parallel()
	p := newPipe(t)
	c := newChannel(p.path)
	defer c.close()
	// One who goes away while the guest boots does not spoil it for others.
	ctx, cancel := context.WithCancel(t.Context())
	impatient := make(chan error, 1)
	go func() { impatient <- echo(ctx, c) }()
	const callers = 20
	errs := make(chan error, callers)
	for range callers {
		go func() { errs <- echo(t.Context(), c) }()
	}
	cancel()
	if err := <-impatient; !errors.Is(err, context.Canceled) {
		t.Errorf("canceled caller: %v", err)
	}
	close(p.boots)
	for range callers {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	if n := p.accepted.Load(); n != 1 {
		t.Errorf("%d connections, want 1", n)
	}
}

func TestChannelIsMadeAgain(t *testing.T) {
	t.Parallel()
	p := newPipe(t)
	close(p.boots)
	c := newChannel(p.path)
	defer c.close()
	for range 3 {
		if err := echo(t.Context(), c); err != nil {
			t.Fatal(err)
		}
		_ = (*p.last.Load()).Close() // the guest's agent starts anew
		select {
		case <-c.session.Done():
		case <-time.After(time.Minute):
			t.Fatal("the session has not ended")
		}
	}
	if n := p.accepted.Load(); n != 3 {
		t.Errorf("%d connections, want 3", n)
	}
}

func TestChannelWithoutQEMU(t *testing.T) {
	t.Parallel()
	c := newChannel("/nonexistent/agent.sock")
	defer c.close()
	for range 2 {
		if err := echo(t.Context(), c); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("error %v", err)
		}
	}
}

func TestChannelClose(t *testing.T) {
	t.Parallel()
	p := newPipe(t) // does not boot
	c := newChannel(p.path)
	waiting := make(chan error, 1)
	go func() { waiting <- echo(t.Context(), c) }()
	c.close()
	c.close()
	if err := <-waiting; err == nil {
		t.Error("reached a guest that never booted")
	}
	if err := echo(t.Context(), c); err == nil {
		t.Error("reached a guest after close")
	}
}
