package fctest

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"banger/internal/agent/wire"
	"banger/internal/vmm"
	"banger/internal/vmm/vmmtest"
)

// vsock is the fake's vsock device. Until the guest runs a connection hangs, as
// it does in Firecracker.
type vsock struct {
	listener net.Listener
	booted   chan struct{}
	boot     func(machine)
	guest    *guestListener
	port     atomic.Uint32
}

func (v *vm) putVsock(body []byte) error {
	var s struct {
		CID  uint32 `json:"guest_cid"`
		Path string `json:"uds_path"`
		ID   string `json:"vsock_id"`
	}
	if err := decode(body, &s, "guest_cid", "uds_path"); err != nil {
		return err
	}
	if s.CID < 3 {
		return fault("Vsock error: invalid guest CID")
	}
	if v.vsock != nil {
		_ = v.vsock.listener.Close() // which unlinks
	}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: s.Path, Net: "unix"})
	if err != nil {
		return faultf("Cannot create backend for vsock device: UnixBind(%v)", err)
	}
	v.vsock = newVsock(listener)
	return nil
}

func newVsock(listener net.Listener) *vsock {
	s := &vsock{listener: listener, booted: make(chan struct{}), guest: &guestListener{conns: make(chan net.Conn)}}
	s.boot = func(m machine) {
		agent := vmmtest.NewAgent(vmm.Spec{VCPU: m.VCPU, MemoryMiB: m.MemoryMiB}, func() {
			// A guest that reboots: the answer gets out before.
			time.AfterFunc(10*time.Millisecond, func() { os.Exit(0) }) //nolint:forbidigo // it is a program
		})
		server := &http.Server{Handler: agent, ReadHeaderTimeout: time.Minute}
		go func() { _ = server.Serve(s.guest) }()
		close(s.booted)
	}
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go s.connect(conn)
		}
	}()
	return s
}

// connect is one connection from the host.
func (s *vsock) connect(conn net.Conn) {
	<-s.booted
	line := make([]byte, 0, 32)
	one := make([]byte, 1)
	for len(line) < cap(line) {
		if _, err := io.ReadFull(conn, one); err != nil {
			break
		}
		if one[0] == '\n' {
			break
		}
		line = append(line, one[0])
	}
	word, port, _ := strings.Cut(string(line), " ")
	if n, err := strconv.ParseUint(port, 10, 32); err != nil || !strings.EqualFold(word, "CONNECT") || n != wire.VsockPort {
		_ = conn.Close() // without a word
		return
	}
	if _, err := fmt.Fprintf(conn, "OK %d\n", 1<<30+s.port.Add(1)); err != nil {
		_ = conn.Close()
		return
	}
	s.guest.conns <- conn
}

// guestListener hands connections to the fake guest's agent.
type guestListener struct {
	conns chan net.Conn
}

func (l *guestListener) Accept() (net.Conn, error) { return <-l.conns, nil }
func (l *guestListener) Close() error              { return nil }
func (l *guestListener) Addr() net.Addr            { return &net.UnixAddr{Name: "fake vsock", Net: "unix"} }
