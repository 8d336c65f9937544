package dns

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/miekg/dns"
)

var box = netip.AddrFrom4([4]byte{127, 1, 1, 2})

func lookup(name string) (netip.Addr, bool) { return box, name == "box" }

func TestAnswer(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name  string
		qtype uint16
		class uint16
		code  int
		want  string // the answer's data
		soa   bool
	}{
		{name: "box.vm.", qtype: dns.TypeA, want: "127.1.1.2"},
		{name: "BoX.vM.", qtype: dns.TypeA, want: "127.1.1.2"},
		{name: "box.vm.", qtype: dns.TypeANY, want: "127.1.1.2"},
		{name: "box.vm.", qtype: dns.TypeAAAA, soa: true},
		{name: "other.vm.", qtype: dns.TypeA, code: dns.RcodeNameError, soa: true},
		{name: "sub.box.vm.", qtype: dns.TypeA, code: dns.RcodeNameError, soa: true},
		{name: "vm.", qtype: dns.TypeA, soa: true},
		{name: "vm.", qtype: dns.TypeSOA, want: "localhost. nobody.invalid. 1 3600 600 86400 0"},
		{name: "vm.", qtype: dns.TypeNS, want: "localhost."},
		{name: Probe, qtype: dns.TypeTXT, want: `"me"`},
		{name: Probe, qtype: dns.TypeA, soa: true},
		{name: "example.com.", qtype: dns.TypeA, code: dns.RcodeRefused},
		{name: "box.evm.", qtype: dns.TypeA, code: dns.RcodeRefused},
		{name: ".", qtype: dns.TypeNS, code: dns.RcodeRefused},
		{name: "box.vm.", qtype: dns.TypeA, class: dns.ClassCHAOS, code: dns.RcodeRefused},
	} {
		question := new(dns.Msg).SetQuestion(test.name, test.qtype)
		if test.class != 0 {
			question.Question[0].Qclass = test.class
		}
		answer := Answer(question, "me", lookup)
		var all []string
		for _, record := range answer.Answer {
			all = append(all, strings.TrimPrefix(record.String(), record.Header().String()))
		}
		data := strings.Join(all, " ")
		soa := len(answer.Ns) == 1 && answer.Ns[0].Header().Rrtype == dns.TypeSOA
		if answer.Rcode != test.code || data != test.want || soa != test.soa || answer.Id != question.Id || !answer.Response {
			t.Errorf("%s %s: got\n%v", test.name, dns.TypeToString[test.qtype], answer)
		}
	}
}

func listen(t *testing.T, lookup Lookup) string {
	t.Helper()
	server, err := Listen(t.Context(), 0, "me", lookup, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	})
	return net.JoinHostPort("127.0.0.1", strconv.Itoa(server.Port()))
}

func TestServerFollows(t *testing.T) {
	t.Parallel()
	var up atomic.Bool
	address := listen(t, func(name string) (netip.Addr, bool) { return box, name == "box" && up.Load() })
	for _, network := range []string{"udp", "tcp"} {
		for _, running := range []bool{false, true, false} {
			up.Store(running)
			client := dns.Client{Net: network}
			answer, _, err := client.ExchangeContext(t.Context(), new(dns.Msg).SetQuestion("box.vm.", dns.TypeA), address)
			if err != nil {
				t.Fatal(err)
			}
			if got := len(answer.Answer) == 1; got != running || !answer.Authoritative {
				t.Errorf("%s, running %v: %v", network, running, answer)
			}
		}
	}
	owner, err := Ask(t.Context(), address)
	if owner != "me" || err != nil {
		t.Errorf("ask: %q, %v", owner, err)
	}
}

func TestPortTaken(t *testing.T) {
	t.Parallel()
	address := listen(t, lookup)
	_, text, _ := net.SplitHostPort(address)
	port, _ := strconv.Atoi(text)
	if server, err := Listen(t.Context(), port, "you", lookup, slog.New(slog.DiscardHandler)); err == nil {
		t.Error("a second server has the same port", server.Close())
	}
}

func TestWiredAsksThisHostOnly(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"nameserver 192.0.2.1\n", "nameserver nonsense\n"} {
		path := filepath.Join(t.TempDir(), "resolv.conf")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()                                            // a question would fail with another error
		if _, err := Wired(ctx, path); err != ErrNotWired { //nolint:errorlint // exactly this one
			t.Errorf("%q: %v", text, err)
		}
	}
}

func FuzzAnswer(f *testing.F) {
	packed, err := new(dns.Msg).SetQuestion("box.vm.", dns.TypeA).SetEdns0(4096, true).Pack()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(packed)
	f.Add([]byte("\x00\x01\x01\x00\x00\x02\x00\x00\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, data []byte) {
		var question dns.Msg
		if question.Unpack(data) != nil {
			return
		}
		answer := Answer(&question, "me", lookup)
		packed, err := answer.Pack()
		if err != nil && len(question.Question) > 0 {
			t.Skip("the library reads names that it does not write")
		}
		if len(packed) > maxUDP+len(data) || len(answer.Answer) > 1 {
			t.Errorf("an answer of %d bytes to one of %d", len(packed), len(data))
		}
	})
}
