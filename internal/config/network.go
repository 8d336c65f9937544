package config

import (
	"fmt"
	"net/netip"
	"strings"
)

// NetworkAccess is what guests may reach beyond the internet. Its zero value
// is nothing.
type NetworkAccess struct {
	// Host opens the host's own services, LAN private addresses and the
	// networks that the host is attached to, Guests the other VMs on the
	// bridge.
	Host, LAN, Guests bool
	// Allow opens IPv4 networks that would be refused without it.
	Allow []netip.Prefix
}

// String says what is open, for people.
func (n NetworkAccess) String() string {
	open := []string{"the internet"}
	if n.LAN {
		open = append(open, "private networks")
	}
	for _, prefix := range n.Allow {
		open = append(open, prefix.String())
	}
	if n.Host {
		open = append(open, "this host")
	}
	if n.Guests {
		open = append(open, "each other on the bridge")
	}
	return strings.Join(open, ", ")
}

func setBool(to, from *bool) error {
	if from != nil {
		*to = *from
	}
	return nil
}

// setPrefixes takes networks such as 10.1.2.0/24, and single addresses.
func setPrefixes(to *[]netip.Prefix, from []string) error {
	for _, text := range from {
		prefix, err := netip.ParsePrefix(text)
		if addr, addrErr := netip.ParseAddr(text); addrErr == nil && addr.Is4() {
			prefix, err = netip.PrefixFrom(addr, addr.BitLen()), nil
		}
		if err != nil || !prefix.Addr().Is4() {
			return fmt.Errorf("%q is not an IPv4 network such as 10.1.2.0/24", text)
		}
		if prefix != prefix.Masked() {
			return fmt.Errorf("%q has bits beyond its prefix length: the network is %v", text, prefix.Masked())
		}
		*to = append(*to, prefix)
	}
	return nil
}

// checkPort takes the number of a port that an ordinary user may have, and 0.
func checkPort(port int) error {
	if port != 0 && (port < 1024 || port > 65535) {
		return fmt.Errorf("%d is not a port from 1024 to 65535, or 0 for none", port)
	}
	return nil
}
