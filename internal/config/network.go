package config

import (
	"fmt"
	"net/netip"
)

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
