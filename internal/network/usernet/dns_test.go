package usernet

import (
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/miekg/dns"

	"banger/internal/network/usernet/guesttest"
)

// nameServer answers on one port of loopback, over UDP if udp, and over TCP.
func nameServer(t *testing.T, answer dns.HandlerFunc, udp bool) netip.AddrPort {
	t.Helper()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := netip.MustParseAddrPort(listener.Addr().String())
	servers := []*dns.Server{{Listener: listener, Handler: answer}}
	if udp {
		packets, err := new(net.ListenConfig).ListenPacket(t.Context(), "udp", addr.String())
		if err != nil {
			t.Skipf("the UDP port %v is taken: %v", addr, err)
		}
		servers = append(servers, &dns.Server{PacketConn: packets, Handler: answer})
	}
	for _, server := range servers {
		started, done := make(chan struct{}), make(chan struct{})
		server.NotifyStartedFunc = func() { close(started) }
		go func() {
			defer close(done)
			server.ActivateAndServe()
		}()
		<-started
		t.Cleanup(func() {
			server.Shutdown()
			<-done
		})
	}
	return addr
}

// addresses answers every question with some A records.
func addresses(ips ...string) dns.HandlerFunc {
	return func(w dns.ResponseWriter, question *dns.Msg) {
		answer := new(dns.Msg).SetReply(question)
		for _, ip := range ips {
			answer.Answer = append(answer.Answer, &dns.A{
				Hdr: dns.RR_Header{Name: question.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60},
				A:   net.ParseIP(ip),
			})
		}
		w.WriteMsg(answer)
	}
}

// many is more addresses than fit 512 bytes.
func many() []string { return slices.Repeat([]string{"203.0.113.1"}, 60) }

// lookup asks as a program in the guest does.
func lookup(t *testing.T, guest *guesttest.Guest, network string) (*dns.Msg, error) {
	t.Helper()
	server := netip.AddrPortFrom(gateway, 53)
	var conn net.Conn
	var err error
	if network == "tcp" {
		conn, err = guest.DialTCP(t.Context(), server)
	} else {
		conn, err = guest.DialUDP(server)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	deadline(t, conn)
	client := &dns.Client{Net: network, Timeout: patience}
	answer, _, err := client.ExchangeWithConn(new(dns.Msg).SetQuestion("Example.org.", dns.TypeA), &dns.Conn{Conn: streamOrPacket(conn)})
	return answer, err
}

// packetConn tells the DNS library that a connection is UDP: it looks at the
// interface.
type packetConn struct {
	net.Conn
	net.PacketConn
}

func (c packetConn) Close() error                        { return c.Conn.Close() }
func (c packetConn) LocalAddr() net.Addr                 { return c.Conn.LocalAddr() }
func (c packetConn) SetDeadline(at time.Time) error      { return c.Conn.SetDeadline(at) }
func (c packetConn) SetReadDeadline(at time.Time) error  { return c.Conn.SetReadDeadline(at) }
func (c packetConn) SetWriteDeadline(at time.Time) error { return c.Conn.SetWriteDeadline(at) }

func streamOrPacket(conn net.Conn) net.Conn {
	if packets, ok := conn.(net.PacketConn); ok {
		return packetConn{conn, packets}
	}
	return conn
}

func TestDNS(t *testing.T) {
	t.Parallel()
	// Nothing listens there.
	dead := netip.MustParseAddrPort("127.0.0.1:1")
	tests := []struct {
		name      string
		network   string
		resolvers func(t *testing.T) []netip.AddrPort
		want      int // number of addresses
		truncated bool
		code      int
	}{
		{"udp", "udp", func(t *testing.T) []netip.AddrPort {
			t.Helper()
			return []netip.AddrPort{nameServer(t, addresses("203.0.113.1"), true)}
		}, 1, false, dns.RcodeSuccess},
		{"tcp", "tcp", func(t *testing.T) []netip.AddrPort {
			t.Helper()
			return []netip.AddrPort{nameServer(t, addresses(many()...), false)}
		}, 60, false, dns.RcodeSuccess},
		{"the first resolver is dead", "udp", func(t *testing.T) []netip.AddrPort {
			t.Helper()
			return []netip.AddrPort{dead, nameServer(t, addresses("203.0.113.1"), true)}
		}, 1, false, dns.RcodeSuccess},
		{"a resolver without udp", "udp", func(t *testing.T) []netip.AddrPort {
			t.Helper()
			return []netip.AddrPort{nameServer(t, addresses("203.0.113.1"), false)}
		}, 1, false, dns.RcodeSuccess},
		{"a large answer and a resolver without udp", "udp", func(t *testing.T) []netip.AddrPort {
			t.Helper()
			return []netip.AddrPort{nameServer(t, addresses(many()...), false)}
		}, 0, true, dns.RcodeSuccess},
		{"no resolver answers udp", "udp", func(t *testing.T) []netip.AddrPort {
			t.Helper()
			return []netip.AddrPort{dead}
		}, 0, false, dns.RcodeServerFailure},
		{"no resolver answers tcp", "tcp", func(t *testing.T) []netip.AddrPort {
			t.Helper()
			return []netip.AddrPort{dead}
		}, 0, false, dns.RcodeServerFailure},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			list := test.resolvers(t)
			guest, _, _ := start(t, setup{resolvers: func() []netip.AddrPort { return list }})
			answer, err := lookup(t, guest, test.network)
			if err != nil {
				t.Fatal(err)
			}
			if len(answer.Answer) != test.want || answer.Truncated != test.truncated || answer.Rcode != test.code {
				t.Errorf("got %v", answer)
			}
			if len(answer.Question) != 1 || answer.Question[0].Name != "Example.org." {
				t.Errorf("the answer is to %v", answer.Question)
			}
		})
	}
}
