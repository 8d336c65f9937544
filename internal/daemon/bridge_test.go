package daemon

import (
	"fmt"
	"log/slog"
	"net/netip"
	"testing"

	miekg "github.com/miekg/dns"
	"github.com/vishvananda/netlink"

	"banger/internal/network/bridge"
	"banger/internal/network/netnstest"
	"banger/internal/network/plan"
)

func TestGuestNames(t *testing.T) {
	t.Parallel()
	if !netnstest.Enter(t) {
		return
	}
	names := &guestNames{
		log:    slog.New(slog.DiscardHandler),
		lookup: func(name string) (netip.Addr, bool) { return netip.MustParseAddr("172.16.0.16"), name == "box" },
	}
	if err := names.listen(); err == nil {
		t.Error("it listens at an address that is not there")
	}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	address, err := netlink.ParseAddr(plan.Gateway.String() + "/32")
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.AddrAdd(lo, address); err != nil {
		t.Fatal(err)
	}
	server := fmt.Sprint(plan.Gateway, ":", bridge.NamesPort)
	for range 2 { // it can be ended and begun again
		for range 2 { // and it is begun once only
			if err := names.listen(); err != nil {
				t.Fatal(err)
			}
		}
		if err := (&guestNames{log: names.log}).listen(); err == nil {
			t.Error("two have the same port")
		}
		for _, network := range []string{"udp", "tcp"} {
			for name, want := range map[string]int{"box.vm.": miekg.RcodeSuccess, "other.vm.": miekg.RcodeNameError, "example.org.": miekg.RcodeServerFailure} {
				client := miekg.Client{Net: network, Timeout: patience}
				answer, _, err := client.ExchangeContext(t.Context(), new(miekg.Msg).SetQuestion(name, miekg.TypeA), server)
				if err != nil || answer.Rcode != want || (len(answer.Answer) == 1) != (want == miekg.RcodeSuccess) {
					t.Errorf("%s over %s: %v, %v", name, network, answer, err)
				}
			}
		}
		names.stop()
		names.stop()
	}
}
