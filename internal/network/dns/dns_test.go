package dns

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"testing"

	"github.com/miekg/dns"

	"banger/internal/network/dns/zone"
)

var box = netip.AddrFrom4([4]byte{127, 1, 1, 2})

func lookup(name string) (netip.Addr, bool) { return box, name == "box" }

func listen(t *testing.T, lookup zone.Lookup) string {
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
