package usernet

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"banger/internal/network/policy"
)

// errRefused is wrapped by what [judge.decide] says no with.
var errRefused = errors.New("refused by the network policy")

// Prefixes of IPv6 addresses that carry an IPv4 address, and at which byte:
// NAT64 and 6to4 would lead to it.
var embedded = []struct {
	prefix netip.Prefix
	at     int
}{
	{netip.MustParsePrefix("64:ff9b::/96"), 12},
	{netip.MustParsePrefix("2002::/16"), 2},
	{netip.MustParsePrefix("::/96"), 12},
}

// judge applies a policy to the address of one connection at a time.
type judge struct {
	policy policy.Policy
	// gateway is the host's address as guests see it, guests the network that
	// all VMs share.
	gateway netip.Addr
	guests  netip.Prefix
	// hostNetworks returns the addresses of the host's interfaces, with their
	// prefix lengths. It is asked at every decision: addresses come and go.
	hostNetworks func() ([]netip.Prefix, error)
	// isLocal says whether the host's routing delivers an address to itself.
	isLocal func(netip.Addr) bool
}

// decide returns the address to dial for a guest that asks for dst, or an
// error that is errRefused. There are no names here: what is judged is what is
// dialled, so an answer of a DNS server cannot get around it.
func (j *judge) decide(dst netip.AddrPort) (netip.AddrPort, error) {
	addr := dst.Addr().Unmap()
	if addr == j.gateway {
		if !j.policy.Host {
			return netip.AddrPort{}, fmt.Errorf("%w: %v is the host", errRefused, addr)
		}
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), dst.Port()), nil
	}
	if err := j.check(addr); err != nil {
		return netip.AddrPort{}, err
	}
	if inner, ok := embeddedIPv4(addr); ok {
		if err := j.check(inner); err != nil {
			return netip.AddrPort{}, err
		}
	}
	return netip.AddrPortFrom(addr, dst.Port()), nil
}

func (j *judge) check(addr netip.Addr) error {
	refuse := func(why string) error { return fmt.Errorf("%w: %v %s", errRefused, addr, why) }
	if !addr.IsValid() || addr.Zone() != "" {
		return refuse("is not a plain address")
	}
	networks, err := j.hostNetworks()
	if err != nil {
		return fmt.Errorf("%w: cannot list the host's addresses: %w", errRefused, err)
	}
	rule := policy.Decide(j.policy.Rules(j.guests, networks), addr, func(addr netip.Addr) bool {
		return slices.ContainsFunc(networks, func(p netip.Prefix) bool { return p.Addr() == addr }) || j.isLocal(addr)
	})
	if !rule.Allow {
		return refuse(rule.Why)
	}
	return nil
}

func embeddedIPv4(addr netip.Addr) (netip.Addr, bool) {
	for _, e := range embedded {
		if e.prefix.Contains(addr) {
			bytes := addr.As16()
			return netip.AddrFrom4([4]byte(bytes[e.at : e.at+4])), true
		}
	}
	return netip.Addr{}, false
}

// routedToSelf asks the kernel's routing. It knows what the list of addresses
// does not: local routes, and the broadcast addresses of networks. Where the
// question is not understood the list has to do, and a failing connection
// says the rest.
func routedToSelf(addr netip.Addr) bool {
	routes, err := netlink.RouteGet(addr.AsSlice())
	if err != nil {
		return false
	}
	return slices.ContainsFunc(routes, func(r netlink.Route) bool {
		switch r.Type {
		case unix.RTN_LOCAL, unix.RTN_BROADCAST, unix.RTN_ANYCAST, unix.RTN_MULTICAST:
			return true
		}
		return false
	})
}
