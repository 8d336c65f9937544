package vmmtest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"banger/internal/agent/wire"
	"banger/internal/vmm"
)

// fakeAgent is the Fake's stand-in for the agent in a guest.
type fakeAgent struct {
	mux      *http.ServeMux
	powerOff func()
	bootID   string

	mu         sync.Mutex
	configured []wire.Configuration
}

// NewAgent returns an agent that answers hello, ready, configuration, ports,
// stats and shutdown, and calls powerOff once a shutdown has been answered.
func NewAgent(spec vmm.Spec, powerOff func()) http.Handler {
	a := newAgent(spec)
	a.powerOff = powerOff
	return a
}

var boots atomic.Uint64 // tells the boots of all Fakes apart

func newAgent(spec vmm.Spec) *fakeAgent {
	a := &fakeAgent{mux: http.NewServeMux(), bootID: "fake-boot-" + strconv.FormatUint(boots.Add(1), 10)}
	a.mux.HandleFunc("GET /v1/hello", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, wire.Hello{
			Version: wire.Version, BootID: a.bootID, Kernel: "fake",
			Configured: len(a.configurations()) > 0, Init: "/sbin/init",
		})
	})
	a.mux.HandleFunc("PUT /v1/configuration", func(w http.ResponseWriter, r *http.Request) {
		var configuration wire.Configuration
		if err := json.NewDecoder(r.Body).Decode(&configuration); err != nil {
			refuse(w, http.StatusBadRequest, wire.ErrBadRequest, err.Error())
			return
		}
		a.mu.Lock()
		a.configured = append(a.configured, configuration)
		a.mu.Unlock()
		w.WriteHeader(http.StatusNoContent)
	})
	a.mux.HandleFunc("GET /v1/ready", a.ifConfigured(func(w http.ResponseWriter, _ *http.Request) {
		answer(w, wire.Ready{State: "running"})
	}))
	a.mux.HandleFunc("GET /v1/ports", a.ifConfigured(func(w http.ResponseWriter, _ *http.Request) {
		answer(w, []wire.Port{{Address: "0.0.0.0", Port: 22, PID: 1, Process: "sshd"}})
	}))
	a.mux.HandleFunc("GET /v1/stats", a.ifConfigured(func(w http.ResponseWriter, _ *http.Request) {
		answer(w, wire.Stats{CPUs: spec.VCPU, MemoryTotal: uint64(spec.MemoryMiB) << 20, Disks: []wire.Disk{}})
	}))
	a.mux.HandleFunc("POST /v1/shutdown", func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusNoContent)
		_ = http.NewResponseController(w).Flush()
		a.powerOff()
	})
	return a
}

func (a *fakeAgent) ServeHTTP(w http.ResponseWriter, r *http.Request) { a.mux.ServeHTTP(w, r) }

func (a *fakeAgent) configurations() []wire.Configuration {
	a.mu.Lock()
	defer a.mu.Unlock()
	return append([]wire.Configuration(nil), a.configured...)
}

func (a *fakeAgent) ifConfigured(next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if len(a.configurations()) == 0 {
			refuse(w, http.StatusConflict, wire.ErrNotConfigured, "this guest is not configured yet")
			return
		}
		next(w, r)
	}
}

func answer(w http.ResponseWriter, body any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(body)
}

func refuse(w http.ResponseWriter, status int, kind, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(wire.Error{Kind: kind, Message: message})
}

// pipeListener is a listener without an address: connections are socket pairs.
type pipeListener struct {
	conns  chan net.Conn
	closed chan struct{}
	close  func()
}

func newPipeListener() *pipeListener {
	l := &pipeListener{conns: make(chan net.Conn), closed: make(chan struct{})}
	l.close = sync.OnceFunc(func() { close(l.closed) })
	return l
}

func (l *pipeListener) dial(ctx context.Context) (net.Conn, error) {
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, err
	}
	select {
	case l.conns <- theirs:
		return ours, nil
	case <-l.closed:
		err = errors.New("cannot reach the guest's agent: it does not answer")
	case <-ctx.Done():
		err = fmt.Errorf("cannot reach the guest's agent: %w", ctx.Err())
	}
	_ = ours.Close()
	_ = theirs.Close()
	return nil, err
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.conns:
		return conn, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	l.close()
	return nil
}

func (l *pipeListener) Addr() net.Addr { return &net.UnixAddr{Name: "fake agent", Net: "unix"} }

func socketPair() (net.Conn, net.Conn, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot make a socket pair: %w", err)
	}
	var conns [2]net.Conn
	for i, fd := range fds {
		file := os.NewFile(uintptr(fd), "socket pair")
		conns[i], err = net.FileConn(file) // duplicates
		_ = file.Close()
		if err != nil {
			if i == 1 {
				_ = conns[0].Close()
			} else {
				_ = unix.Close(fds[1])
			}
			return nil, nil, fmt.Errorf("cannot make a socket pair: %w", err)
		}
	}
	return conns[0], conns[1], nil
}
