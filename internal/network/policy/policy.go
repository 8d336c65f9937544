// Package policy says what guests may reach: one table, which both network
// modes go by.
package policy

import (
	"net"
	"net/netip"
	"slices"
	"strings"
)

// Policy says what a guest may reach beyond the internet. Its zero value is
// the default: the internet, and nothing of the host or of its networks.
type Policy struct {
	// Host allows the host's own services.
	Host bool `json:"host,omitempty"`
	// LAN allows private address ranges and the networks that the host is
	// attached to, but neither the host itself nor link-local addresses.
	LAN bool `json:"lan,omitempty"`
	// Guests allows VMs to reach each other, where they have a network in
	// common.
	Guests bool `json:"guests,omitempty"`
	// Allow names networks that would be refused without it, link-local ones
	// included. It never opens the host itself.
	Allow []netip.Prefix `json:"allow,omitempty"`
}

// String says what is open, for people.
func (p Policy) String() string {
	open := []string{"the internet"}
	if p.LAN {
		open = append(open, "private networks")
	}
	for _, prefix := range p.Allow {
		open = append(open, prefix.String())
	}
	if p.Host {
		open = append(open, "this host")
	}
	if p.Guests {
		open = append(open, "each other on the bridge")
	}
	return strings.Join(open, ", ")
}

// Equal says whether two policies allow the same.
func (p Policy) Equal(q Policy) bool {
	return p.Host == q.Host && p.LAN == q.LAN && p.Guests == q.Guests && slices.Equal(p.Allow, q.Allow)
}

// Rule decides for the addresses of one network.
type Rule struct {
	Prefix netip.Prefix
	// Host is set for the one rule that has no prefix: it decides for the
	// host's own addresses.
	Host  bool
	Allow bool
	// Why ends the sentence "this address ..." for one that is refused.
	Why string
}

// Ranges that no policy opens: they mean the host itself, or cannot be the
// other end of a connection.
var never = Prefixes("0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/4", "240.0.0.0/4", "::/128", "::1/128", "ff00::/8")

// linkLocal is opened by [Policy.Allow] alone: cloud metadata services live
// there, and give out credentials.
var linkLocal = Prefixes("169.254.0.0/16", "fe80::/10")

var private = Prefixes("10.0.0.0/8", "100.64.0.0/10", "172.16.0.0/12", "192.0.0.0/24", "192.168.0.0/16", "198.18.0.0/15",
	"fc00::/7", "fec0::/10")

var everything = Prefixes("0.0.0.0/0", "::/0")

// Rules lists what decides for an address: the first that has it. An address
// that none has is of the internet, and allowed. guests is the network of the
// VMs, attached what [HostNetworks] returns.
func (p Policy) Rules(guests netip.Prefix, attached []netip.Prefix) []Rule {
	var rules []Rule
	add := func(prefixes []netip.Prefix, allow bool, why string) {
		for _, prefix := range prefixes {
			rules = append(rules, Rule{Prefix: prefix.Masked(), Allow: allow, Why: why})
		}
	}
	add(never, false, "is no address of another machine")
	add([]netip.Prefix{guests}, p.Guests, "belongs to the network of the VMs")
	rules = append(rules, Rule{Host: true, Allow: p.Host, Why: "is the host"})
	add(p.Allow, true, "")
	add(linkLocal, false, "is link-local")
	if p.LAN {
		add(everything, true, "")
		return rules
	}
	add(private, false, "is private")
	add(attached, false, "is in a network of the host")
	return rules
}

// Decide returns the rule for an address, one that allows if there is none.
// isHost says whether the address is one of the host's.
func Decide(rules []Rule, addr netip.Addr, isHost func(netip.Addr) bool) Rule {
	for _, rule := range rules {
		if rule.Host && isHost(addr) || !rule.Host && rule.Prefix.Contains(addr) {
			return rule
		}
	}
	return Rule{Allow: true}
}

// HostNetworks lists the addresses of the host's interfaces with their prefix
// lengths.
func HostNetworks() ([]netip.Prefix, error) {
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

// Prefixes parses networks that are constants; it panics on others.
func Prefixes(list ...string) []netip.Prefix {
	out := make([]netip.Prefix, 0, len(list))
	for _, s := range list {
		out = append(out, netip.MustParsePrefix(s))
	}
	return out
}

// Refused says whether all of a network is refused by default, whatever the host
// is attached to.
func Refused(network netip.Prefix) bool {
	for _, list := range [][]netip.Prefix{never, linkLocal, private} {
		if slices.ContainsFunc(list, func(p netip.Prefix) bool { return p.Bits() <= network.Bits() && p.Contains(network.Addr()) }) {
			return true
		}
	}
	return false
}
