package forward

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"banger/internal/agent"
	"banger/internal/agent/wire"
	guestagent "banger/internal/guest/agent"
	"banger/internal/guest/rootfs"
)

const patience = time.Minute

// system is a guest of which the agent needs nothing.
type system struct{}

func (system) Hello() wire.Hello                                   { return wire.Hello{} }
func (system) Configure(context.Context, wire.Configuration) error { return nil }
func (system) Root() *rootfs.FS                                    { return nil }
func (system) Ready(context.Context) (wire.Ready, error)           { return wire.Ready{}, nil }
func (system) Shutdown(context.Context, wire.Shutdown) error       { return nil }

// guest is the real agent with a list of ports that the test makes.
type guest struct {
	*Forwarder
	mu    sync.Mutex
	ports []wire.Port
	next  chan struct{}
	drop  bool // end the watch after the next answer
}

func newGuest(t *testing.T) *guest {
	t.Helper()
	g := &guest{next: make(chan struct{}), ports: []wire.Port{}}
	server := guestagent.New(system{}, slog.New(slog.DiscardHandler))
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = server.Serve(listener) }()
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/ports", g.watch)
	mux.Handle("/", httputil.NewSingleHostReverseProxy(&url.URL{Scheme: "http", Host: listener.Addr().String()}))
	front := httptest.NewServer(mux)
	client := agent.New(func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp4", front.Listener.Addr().String())
	})
	var random [2]byte
	rand.Read(random[:])
	g.Forwarder = Start(client, netip.AddrFrom4([4]byte{127, 255, random[0], random[1]}), slog.New(slog.DiscardHandler))
	t.Cleanup(func() {
		g.Close()
		g.Wait()
		front.CloseClientConnections()
		front.Close()
		_ = server.Close()
	})
	return g
}

func (g *guest) watch(w http.ResponseWriter, r *http.Request) {
	for {
		g.mu.Lock()
		ports, next, drop := g.ports, g.next, g.drop
		g.drop = false
		g.mu.Unlock()
		_ = json.NewEncoder(w).Encode(ports)
		_ = http.NewResponseController(w).Flush()
		if drop {
			panic(http.ErrAbortHandler)
		}
		select {
		case <-r.Context().Done():
			return
		case <-next:
		}
	}
}

func (g *guest) set(ports ...wire.Port) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.ports = ports
	close(g.next)
	g.next = make(chan struct{})
}

// await waits until the forwarder serves exactly these ports.
func (g *guest) await(t *testing.T, want ...int) []Port {
	t.Helper()
	deadline := time.After(patience)
	for {
		g.Forwarder.mu.Lock()
		changed := g.changed
		g.Forwarder.mu.Unlock()
		ports := g.Ports(t.Context(), nil)
		got := []int{}
		for _, p := range ports {
			got = append(got, p.Guest)
		}
		if cmp.Equal(got, append([]int{}, want...)) {
			return ports
		}
		select {
		case <-changed:
		case <-deadline:
			t.Fatalf("served are %v, want %v", got, want)
		}
	}
}

// program listens in the "guest" and hands each connection to serve.
func program(t *testing.T, serve func(*net.TCPConn)) wire.Port {
	t.Helper()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wait sync.WaitGroup
	wait.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			wait.Go(func() {
				defer conn.Close()
				_ = conn.SetDeadline(time.Now().Add(patience))
				serve(conn.(*net.TCPConn))
			})
		}
	})
	t.Cleanup(func() {
		listener.Close()
		wait.Wait()
	})
	return wire.Port{Address: "127.0.0.1", Port: listener.Addr().(*net.TCPAddr).Port}
}

func dial(t *testing.T, address netip.AddrPort) *net.TCPConn {
	t.Helper()
	conn, err := net.DialTCP("tcp4", nil, net.TCPAddrFromAddrPort(address))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	return conn
}

func echo(conn *net.TCPConn) {
	_, _ = io.Copy(conn, conn)
	_ = conn.CloseWrite()
}

func TestPortsComeAndGo(t *testing.T) {
	t.Parallel()
	g := newGuest(t)
	g.await(t)
	port := program(t, echo)
	g.set(port)
	at := g.await(t, port.Port)[0].Host
	if at.Addr() != g.Address() {
		t.Errorf("served at %v, want at %v", at, g.Address())
	}
	g.set()
	g.await(t)
	if conn, err := net.DialTCP("tcp4", nil, net.TCPAddrFromAddrPort(at)); err == nil {
		conn.Close()
		t.Error("still served")
	}
	// A watch that ends is begun again.
	g.mu.Lock()
	g.drop = true
	g.mu.Unlock()
	g.set(port)
	g.await(t, port.Port)
	g.set()
	g.await(t)
	g.set(port)
	at = g.await(t, port.Port)[0].Host
	g.Close()
	if conn, err := net.DialTCP("tcp4", nil, net.TCPAddrFromAddrPort(at)); err == nil {
		conn.Close()
		t.Error("served after Close")
	}
}

func TestTakenPortIsServedElsewhere(t *testing.T) {
	t.Parallel()
	g := newGuest(t)
	port := program(t, echo)
	taken, err := net.ListenTCP("tcp4", net.TCPAddrFromAddrPort(netip.AddrPortFrom(g.Address(), uint16(port.Port))))
	if err != nil {
		t.Skip("somebody else has the port:", err)
	}
	defer taken.Close()
	g.set(port)
	served := g.await(t, port.Port)[0]
	at := served.Host
	if !at.IsValid() || int(at.Port()) == port.Port || !strings.Contains(served.Elsewhere, "something else has port") {
		t.Fatalf("served as %+v", served)
	}
	conn := dial(t, at)
	_, _ = conn.Write([]byte("hello"))
	_ = conn.CloseWrite()
	if got, err := io.ReadAll(conn); string(got) != "hello" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestHalfClose(t *testing.T) {
	t.Parallel()
	g := newGuest(t)
	// Answers only after the end of what it is sent, with its length.
	port := program(t, func(conn *net.TCPConn) {
		n, _ := io.Copy(io.Discard, conn)
		fmt.Fprint(conn, n)
	})
	g.set(port)
	conn := dial(t, g.await(t, port.Port)[0].Host)
	_, _ = conn.Write(make([]byte, 100_000))
	if err := conn.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(conn); string(got) != "100000" || err != nil {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestResetIsPassedOn(t *testing.T) {
	t.Parallel()
	g := newGuest(t)
	guestSaw := make(chan error, 1)
	resets := program(t, func(conn *net.TCPConn) {
		_, _ = io.ReadFull(conn, make([]byte, 1))
		_ = conn.SetLinger(0)
	})
	isReset := program(t, func(conn *net.TCPConn) {
		_, _ = conn.Write([]byte("x"))
		_, err := io.Copy(io.Discard, conn)
		guestSaw <- err
	})
	refuses := wire.Port{Address: "127.0.0.1", Port: 1} // gone before it is dialled
	g.set(refuses, resets, isReset)
	if at, ok := whereOf(t, g, resets.Port, isReset.Port); ok {
		conn := dial(t, at[0])
		_, _ = conn.Write([]byte("x"))
		if _, err := io.ReadAll(conn); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the guest's reset: %v", err)
		}
		conn = dial(t, at[1])
		_, _ = io.ReadFull(conn, make([]byte, 1))
		_ = conn.SetLinger(0)
		conn.Close()
		if err := <-guestSaw; !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the host's reset: %v", err)
		}
	}
	for _, p := range g.Ports(t.Context(), []wire.Port{refuses}) {
		if p.Guest == refuses.Port && p.Host.IsValid() {
			// The reset may come before connect(2) returns.
			conn, err := new(net.Dialer).DialContext(t.Context(), "tcp4", p.Host.String())
			if err == nil {
				_, err = io.ReadAll(conn)
				conn.Close()
			}
			if !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("nothing listens: %v", err)
			}
		}
	}
}

// whereOf waits for ports and returns where they are.
func whereOf(t *testing.T, g *guest, ports ...int) ([]netip.AddrPort, bool) {
	t.Helper()
	var want []wire.Port
	for _, p := range ports {
		want = append(want, wire.Port{Port: p})
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var at []netip.AddrPort
	all := g.Ports(ctx, want)
	for _, port := range ports {
		for _, p := range all {
			if p.Guest == port {
				at = append(at, p.Host)
			}
		}
	}
	if len(at) != len(ports) {
		t.Errorf("served are %v, want %v", all, ports)
	}
	return at, len(at) == len(ports)
}

func TestManyConnections(t *testing.T) {
	t.Parallel()
	g := newGuest(t)
	const conns, size = 100, 200_000
	all := make(chan struct{})
	var here sync.WaitGroup
	here.Add(conns)
	go func() { here.Wait(); close(all) }()
	port := program(t, func(conn *net.TCPConn) {
		here.Done()
		<-all // they are there at the same time
		echo(conn)
	})
	g.set(port)
	at := g.await(t, port.Port)[0].Host
	var wait sync.WaitGroup
	for range conns {
		conn := dial(t, at)
		wait.Go(func() {
			sent := make([]byte, size)
			rand.Read(sent)
			go func() {
				_, _ = conn.Write(sent)
				_ = conn.CloseWrite()
			}()
			if got, err := io.ReadAll(conn); err != nil || !bytes.Equal(got, sent) {
				t.Errorf("%d bytes of %d came back, %v", len(got), size, err)
			}
		})
	}
	wait.Wait()
}

func TestPortsAreBounded(t *testing.T) {
	t.Parallel()
	g := newGuest(t)
	var ports []wire.Port
	for port := 20000; port < 20000+2*maxPorts; port++ {
		ports = append(ports, wire.Port{Address: "0.0.0.0", Port: port})
	}
	g.set(ports...)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	all := g.Ports(ctx, ports)
	listening := 0
	for _, p := range all {
		if p.Host.IsValid() {
			listening++
		}
	}
	if listening != maxPorts || len(all) != len(ports) {
		t.Errorf("%d ports are served, %d are known", listening, len(all))
	}
}

func TestTargets(t *testing.T) {
	t.Parallel()
	got := targetsOf([]wire.Port{
		{Address: "172.16.0.2", Port: 80},
		{Address: "0.0.0.0", Port: 80},
		{Address: "::", Port: 80},
		{Address: "::1", Port: 81},
		{Address: "nonsense", Port: 82},
		{Address: "0.0.0.0", Port: 70000},
		{Address: "0.0.0.0", Port: -1},
	})
	want := map[int][]string{80: {"127.0.0.1:80", "[::1]:80", "172.16.0.2:80"}, 81: {"[::1]:81"}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestPortOfRoot has a user who may not listen on a low port.
func TestPortOfRoot(t *testing.T) {
	t.Parallel()
	start, err := os.ReadFile("/proc/sys/net/ipv4/ip_unprivileged_port_start")
	if first, parseErr := strconv.Atoi(strings.TrimSpace(string(start))); os.Geteuid() == 0 || err != nil || parseErr != nil || first <= 80 {
		t.Skip("SKIPPED: this user may have all ports")
	}
	f := &Forwarder{address: netip.MustParseAddr("127.85.0.1"), ctx: t.Context()}
	listener, elsewhere, err := f.listen(80)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	if elsewhere != "you may not have port 80" {
		t.Errorf("served on %v because %q", listener.Addr(), elsewhere)
	}
}
