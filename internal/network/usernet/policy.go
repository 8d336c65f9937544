package usernet

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Policy says what a guest may reach beyond the internet. Its zero value is
// the default: the internet, and nothing of the host or of its networks.
type Policy struct {
	// Host allows the host's own services: the gateway's address then stands
	// for the host's loopback, and the host's other addresses are reached.
	Host bool `json:"host,omitempty"`
	// LAN allows private address ranges and the networks that the host is
	// attached to, but neither the host itself nor link-local addresses.
	LAN bool `json:"lan,omitempty"`
	// Allow names networks that would be refused without it, link-local ones
	// included. It never opens the host itself.
	Allow []netip.Prefix `json:"allow,omitempty"`
}

// errRefused is wrapped by what [judge.decide] says no with.
var errRefused = errors.New("refused by the network policy")

// Ranges that no policy opens: they mean the host itself, or cannot be the
// other end of a connection.
var never = prefixes("0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/4", "240.0.0.0/4", "::/128", "::1/128", "ff00::/8")

// linkLocal is opened by [Policy.Allow] alone: cloud metadata services live
// there, and give out credentials.
var linkLocal = prefixes("169.254.0.0/16", "fe80::/10")

var private = prefixes("10.0.0.0/8", "100.64.0.0/10", "172.16.0.0/12", "192.0.0.0/24", "192.168.0.0/16", "198.18.0.0/15",
	"fc00::/7", "fec0::/10")

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

func prefixes(list ...string) []netip.Prefix {
	out := make([]netip.Prefix, 0, len(list))
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

func contains(list []netip.Prefix, addr netip.Addr) bool {
	return slices.ContainsFunc(list, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// judge applies a policy to the address of one connection at a time.
type judge struct {
	policy Policy
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
	switch {
	case !addr.IsValid() || addr.Zone() != "":
		return refuse("is not a plain address")
	case contains(never, addr):
		return refuse("is no address of another machine")
	case j.guests.Contains(addr):
		return refuse("belongs to the network of the VMs")
	}
	networks, err := j.hostNetworks()
	if err != nil {
		return fmt.Errorf("%w: cannot list the host's addresses: %w", errRefused, err)
	}
	isHost := slices.ContainsFunc(networks, func(p netip.Prefix) bool { return p.Addr() == addr })
	if isHost || j.isLocal(addr) {
		if !j.policy.Host {
			return refuse("is the host")
		}
		return nil
	}
	switch {
	case contains(j.policy.Allow, addr):
		return nil
	case contains(linkLocal, addr):
		return refuse("is link-local")
	case j.policy.LAN:
		return nil
	case contains(private, addr):
		return refuse("is private")
	case contains(networks, addr):
		return refuse("is in a network of the host")
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

// interfaceNetworks lists the addresses of all interfaces with their prefix
// lengths.
func interfaceNetworks() ([]netip.Prefix, error) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil, err
	}
	var out []netip.Prefix
	for _, a := range addrs {
		ipnet, ok := a.(*net.IPNet)
		if !ok {
			continue
		}
		addr, ok := netip.AddrFromSlice(ipnet.IP)
		if !ok {
			continue
		}
		bits, _ := ipnet.Mask.Size()
		out = append(out, netip.PrefixFrom(addr.Unmap(), bits))
	}
	return out, nil
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
