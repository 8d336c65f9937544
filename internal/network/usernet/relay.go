package usernet

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Relay is one TCP service that is open whatever the policy says: what the guest
// sends to From goes to To, which may be on the host.
type Relay struct {
	From, To netip.AddrPort
}

type relays []Relay

// find returns where a connection to dst goes by a relay.
func (r relays) find(dst netip.AddrPort) (to netip.AddrPort, ok bool) {
	dst = netip.AddrPortFrom(dst.Addr().Unmap(), dst.Port())
	i := slices.IndexFunc(r, func(relay Relay) bool { return relay.From == dst })
	if i < 0 {
		return netip.AddrPort{}, false
	}
	return r[i].To, true
}

// leadTo says whether one of them goes to addr.
func (r relays) leadTo(addr netip.AddrPort) bool {
	return slices.ContainsFunc(r, func(relay Relay) bool { return relay.To == addr })
}

// String is what [parseRelays] reads.
func (r relays) String() string {
	var list []string
	for _, relay := range r {
		list = append(list, relay.From.String()+"="+relay.To.String())
	}
	return strings.Join(list, ",")
}

func parseRelays(text string) (relays, error) {
	var list relays
	for _, pair := range strings.FieldsFunc(text, func(r rune) bool { return r == ',' }) {
		from, to, _ := strings.Cut(pair, "=")
		var relay Relay
		var err error
		if relay.From, err = netip.ParseAddrPort(from); err == nil {
			relay.To, err = netip.ParseAddrPort(to)
		}
		if err != nil {
			return nil, fmt.Errorf("cannot read a service to open: %w", err)
		}
		list = append(list, relay)
	}
	return list, nil
}
