package usernet

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"banger/internal/network/policy"
	"banger/internal/network/usernet/guesttest"
)

func TestMain(m *testing.M) {
	run := map[string]func([]string) error{Subcommand: Main, tryConfined: confined, guestInNamespace: tapGuest}
	if len(os.Args) > 1 && run[os.Args[1]] != nil {
		if err := run[os.Args[1]](os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1) //nolint:forbidigo // this is the main function here
		}
		return
	}
	goleak.VerifyTestMain(m)
}

var (
	guestPrefix = netip.MustParsePrefix("172.16.0.5/24")
	gateway     = netip.MustParseAddr("172.16.0.1")
	// internet is an address that no rule refuses, and no test reaches: the
	// dialer of the tests leads elsewhere.
	internet = netip.MustParseAddr("203.0.113.7")
)

// patience bounds what must happen; it is never waited for.
const patience = 60 * time.Second

type setup struct {
	policy policy.Policy
	// tcp and udp are where "the internet" really is.
	tcp, udp  string
	resolvers func() []netip.AddrPort
	maxTCP    int
}

// start runs a network with a guest on it. The returned channel gives what
// Serve returns once the guest's end is closed.
func start(tb testing.TB, s setup) (*guesttest.Guest, net.Conn, <-chan error) {
	tb.Helper()
	vm, ours := socketPair(tb)
	done := make(chan error, 1)
	cfg := Config{
		Guest: guestPrefix, Gateway: gateway, Policy: s.policy, MaxTCP: s.maxTCP,
		Resolvers: s.resolvers,
		Dial: func(ctx context.Context, network string, addr netip.AddrPort) (net.Conn, error) {
			target := map[string]string{"tcp": s.tcp, "udp": s.udp}[network]
			if addr.Addr() != internet || target == "" {
				return nil, errors.New("the tests' internet has no such host")
			}
			var d net.Dialer
			return d.DialContext(ctx, network, target)
		},
	}
	go func() { done <- Serve(context.WithoutCancel(tb.Context()), ours, cfg) }()
	ended := make(chan error, 1)
	tb.Cleanup(func() {
		vm.Close()
		select {
		case <-ended:
		case <-time.After(patience):
			tb.Error("the network does not end after its VM")
		}
	})
	result := make(chan error, 1)
	go func() {
		err := <-done
		result <- err
		ended <- err
	}()
	return guesttest.New(tb, vm, guestPrefix, gateway, MTU), vm, result
}

// socketPair is a connected pair of unix stream sockets.
func socketPair(tb testing.TB) (net.Conn, net.Conn) {
	tb.Helper()
	dir, err := os.MkdirTemp("", "usernet") //nolint:usetesting // TempDir's paths can be too long for a socket
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { os.RemoveAll(dir) })
	listener, err := new(net.ListenConfig).Listen(tb.Context(), "unix", filepath.Join(dir, "s"))
	if err != nil {
		tb.Fatal(err)
	}
	defer listener.Close()
	var d net.Dialer
	near, err := d.DialContext(tb.Context(), "unix", listener.Addr().String())
	if err != nil {
		tb.Fatal(err)
	}
	far, err := listener.Accept()
	if err != nil {
		tb.Fatal(err)
	}
	return near, far
}

// serveTCP runs handle for each connection to a loopback listener.
func serveTCP(tb testing.TB, handle func(*net.TCPConn)) string {
	tb.Helper()
	listener, err := new(net.ListenConfig).Listen(tb.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
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
				handle(conn.(*net.TCPConn))
			})
		}
	})
	tb.Cleanup(func() {
		listener.Close()
		wait.Wait()
	})
	return listener.Addr().String()
}

func echo(conn *net.TCPConn) { io.Copy(conn, conn) }

func deadline(tb testing.TB, conn net.Conn) {
	tb.Helper()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		tb.Fatal(err)
	}
}

func dial(tb testing.TB, g *guesttest.Guest, addr netip.Addr, port uint16) (interface {
	net.Conn
	CloseWrite() error
}, error,
) {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), patience)
	defer cancel()
	conn, err := g.DialTCP(ctx, netip.AddrPortFrom(addr, port))
	if err != nil {
		return nil, err
	}
	tb.Cleanup(func() { conn.Close() })
	deadline(tb, conn)
	return conn, nil
}

func mustDial(tb testing.TB, g *guesttest.Guest) interface {
	net.Conn
	CloseWrite() error
} {
	tb.Helper()
	conn, err := dial(tb, g, internet, 80)
	if err != nil {
		tb.Fatal(err)
	}
	return conn
}

func TestTCPHalfClose(t *testing.T) {
	t.Parallel()
	// The server answers only after the guest's end of stream.
	server := serveTCP(t, func(conn *net.TCPConn) {
		all, _ := io.ReadAll(conn)
		fmt.Fprintf(conn, "got %d bytes", len(all))
	})
	guest, _, _ := start(t, setup{tcp: server})
	conn := mustDial(t, guest)
	fmt.Fprint(conn, "hello")
	if err := conn.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(conn)
	if err != nil || string(got) != "got 5 bytes" {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestTCPHostHalfClose(t *testing.T) {
	t.Parallel()
	received := make(chan string, 1)
	server := serveTCP(t, func(conn *net.TCPConn) {
		fmt.Fprint(conn, "bye")
		conn.CloseWrite()
		all, _ := io.ReadAll(conn)
		received <- string(all)
	})
	guest, _, _ := start(t, setup{tcp: server})
	conn := mustDial(t, guest)
	if got, err := io.ReadAll(conn); err != nil || string(got) != "bye" {
		t.Fatalf("got %q, %v", got, err)
	}
	fmt.Fprint(conn, "still here")
	conn.Close()
	if got := <-received; got != "still here" {
		t.Errorf("the host received %q", got)
	}
}

func TestTCPResetFromHost(t *testing.T) {
	t.Parallel()
	server := serveTCP(t, func(conn *net.TCPConn) {
		io.ReadFull(conn, make([]byte, 1))
		abort(conn)
	})
	guest, _, _ := start(t, setup{tcp: server})
	conn := mustDial(t, guest)
	fmt.Fprint(conn, "x")
	_, err := io.ReadAll(conn)
	if err == nil || !strings.Contains(err.Error(), "reset") {
		t.Errorf("the guest sees %v in place of a reset", err)
	}
}

func TestTCPResetFromGuest(t *testing.T) {
	t.Parallel()
	result := make(chan error, 1)
	server := serveTCP(t, func(conn *net.TCPConn) {
		_, err := io.Copy(io.Discard, conn)
		result <- err
	})
	guest, _, _ := start(t, setup{tcp: server})
	conn := mustDial(t, guest)
	fmt.Fprint(conn, "x")
	for _, endpoint := range guest.Stack.RegisteredEndpoints() {
		endpoint.Abort()
	}
	if err := <-result; err == nil || !strings.Contains(err.Error(), "reset") {
		t.Errorf("the host sees %v in place of a reset", err)
	}
}

func TestTCPRefused(t *testing.T) {
	t.Parallel()
	guest, _, _ := start(t, setup{})
	for _, addr := range []string{"172.16.0.1", "10.0.0.1", "169.254.169.254", "192.168.1.1", "172.16.0.9", "203.0.113.99"} {
		_, err := dial(t, guest, netip.MustParseAddr(addr), 80)
		if err == nil || !strings.Contains(err.Error(), "refused") {
			t.Errorf("%s: the guest sees %v in place of a refusal", addr, err)
		}
	}
}

func TestTCPManyAtOnce(t *testing.T) {
	t.Parallel()
	const count = 100
	guest, _, _ := start(t, setup{tcp: serveTCP(t, echo)})
	var wait sync.WaitGroup
	for i := range count {
		wait.Go(func() {
			conn, err := dial(t, guest, internet, 80)
			if err != nil {
				t.Error(err)
				return
			}
			want := fmt.Sprintf("connection %d", i)
			fmt.Fprint(conn, want)
			conn.CloseWrite()
			if got, err := io.ReadAll(conn); err != nil || string(got) != want {
				t.Errorf("got %q, %v, want %q", got, err, want)
			}
		})
	}
	wait.Wait()
}

func TestTCPLimit(t *testing.T) {
	t.Parallel()
	guest, _, _ := start(t, setup{tcp: serveTCP(t, echo), maxTCP: 2})
	first, _ := mustDial(t, guest), mustDial(t, guest)
	if _, err := dial(t, guest, internet, 80); err == nil {
		t.Fatal("a connection beyond the limit was made")
	}
	first.Close()
	// The first one's end has to get around before there is room.
	for limit := time.Now().Add(patience); ; {
		if _, err := dial(t, guest, internet, 80); err == nil {
			return
		}
		if time.Now().After(limit) {
			t.Fatal("there is no room after a connection has ended")
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func TestTCPBulk(t *testing.T) {
	t.Parallel()
	const size = 64 << 20
	guest, _, _ := start(t, setup{tcp: serveTCP(t, echo)})
	conn := mustDial(t, guest)
	sent, received := sha256.New(), sha256.New()
	var wait sync.WaitGroup
	wait.Go(func() {
		source := io.LimitReader(rand.NewChaCha8([32]byte{1}), size)
		if _, err := io.CopyBuffer(onlyWriter{conn}, io.TeeReader(source, sent), make([]byte, 64<<10)); err != nil {
			t.Error(err)
		}
		conn.CloseWrite()
	})
	count, err := io.CopyBuffer(received, conn, make([]byte, 64<<10))
	wait.Wait()
	if err != nil || count != size {
		t.Fatalf("got %d bytes, %v", count, err)
	}
	if !bytes.Equal(sent.Sum(nil), received.Sum(nil)) {
		t.Error("what came back is not what was sent")
	}
}

type onlyWriter struct{ io.Writer }

// serveUDP echoes datagrams.
func serveUDP(tb testing.TB) string {
	tb.Helper()
	conn, err := new(net.ListenConfig).ListenPacket(tb.Context(), "udp", "127.0.0.1:0")
	if err != nil {
		tb.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 64<<10)
		for {
			count, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			conn.WriteTo(buf[:count], from)
		}
	}()
	tb.Cleanup(func() {
		conn.Close()
		<-done
	})
	return conn.LocalAddr().String()
}

func TestUDP(t *testing.T) {
	t.Parallel()
	guest, _, _ := start(t, setup{udp: serveUDP(t)})
	conn, err := guest.DialUDP(netip.AddrPortFrom(internet, 4000))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	deadline(t, conn)
	buf := make([]byte, 64<<10)
	for _, size := range []int{1, 1400, 20000, 0} {
		want := bytes.Repeat([]byte{'u'}, size)
		if _, err := conn.Write(want); err != nil {
			t.Fatal(err)
		}
		count, err := conn.Read(buf)
		if err != nil || !bytes.Equal(buf[:count], want) {
			t.Fatalf("%d bytes: got %d, %v", size, count, err)
		}
	}
}

func TestUDPRefused(t *testing.T) {
	t.Parallel()
	// To all but its peer, a connected socket is a port where nobody listens;
	// and no other test gets it.
	var d net.Dialer
	closed, err := d.DialContext(t.Context(), "udp", "127.0.0.1:1")
	if err != nil {
		t.Fatal(err)
	}
	defer closed.Close()
	nobody := closed.LocalAddr().String()
	guest, _, _ := start(t, setup{udp: nobody})
	for _, addr := range []netip.Addr{gateway, netip.MustParseAddr("192.168.0.1"), internet} {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		err := guest.ProbeUDP(ctx, netip.AddrPortFrom(addr, 4000))
		cancel()
		if err == nil || !strings.Contains(err.Error(), "refused") {
			t.Errorf("%v: the guest sees %v in place of a refusal", addr, err)
		}
	}
}

func TestServeEnds(t *testing.T) {
	t.Parallel()
	guest, vm, result := start(t, setup{tcp: serveTCP(t, echo), udp: serveUDP(t)})
	conn := mustDial(t, guest)
	fmt.Fprint(conn, "x")
	io.ReadFull(conn, make([]byte, 1))
	vm.Close()
	select {
	case err := <-result:
		if err != nil {
			t.Errorf("Serve returns %v", err)
		}
	case <-time.After(patience):
		t.Fatal("Serve does not return")
	}
}

func BenchmarkTCP(b *testing.B) {
	for _, size := range []uint32{1500, MTU} {
		for _, direction := range []string{"up", "down"} {
			b.Run(fmt.Sprintf("%s/mtu%d", direction, size), func(b *testing.B) {
				const chunk = 1 << 20
				b.SetBytes(chunk)
				data := make([]byte, chunk)
				total := int64(b.N) * chunk
				server := serveTCP(b, func(conn *net.TCPConn) {
					if direction == "up" {
						count, _ := io.Copy(io.Discard, conn)
						fmt.Fprint(conn, count)
						return
					}
					for range b.N {
						conn.Write(data)
					}
				})
				vm, ours := socketPair(b)
				go Serve(context.WithoutCancel(b.Context()), ours, Config{Guest: guestPrefix, Gateway: gateway, Dial: func(ctx context.Context, network string, _ netip.AddrPort) (net.Conn, error) {
					return new(net.Dialer).DialContext(ctx, network, server)
				}})
				guest := guesttest.New(b, vm, guestPrefix, gateway, size)
				conn, err := guest.DialTCP(b.Context(), netip.AddrPortFrom(internet, 80))
				if err != nil {
					b.Fatal(err)
				}
				defer conn.Close()
				b.ResetTimer()
				if direction == "up" {
					for range b.N {
						conn.Write(data)
					}
					conn.CloseWrite()
					got, err := io.ReadAll(conn)
					if string(got) != strconv.FormatInt(total, 10) {
						b.Fatalf("the host got %s of %d bytes, %v", got, total, err)
					}
					return
				}
				if count, err := io.CopyBuffer(io.Discard, onlyReader{conn}, data); err != nil || count != total {
					b.Fatalf("got %d of %d, %v", count, total, err)
				}
			})
		}
	}
}

type onlyReader struct{ io.Reader }

func refuseAll(context.Context, string, netip.AddrPort) (net.Conn, error) {
	return nil, errors.New("the tests' internet has no such host")
}
