// Package plan is the address plan: one network, in which a VM has one address
// for life, whatever connects it.
package plan

import (
	"fmt"
	"iter"
	"net/netip"
)

var (
	// Network is the one of all VMs.
	Network = netip.MustParsePrefix("172.16.0.0/24")
	// Gateway is the host in it, and answers DNS.
	Gateway = netip.MustParseAddr("172.16.0.1")
)

// What is below the first address of a VM is in reserve.
const (
	first = 16
	last  = 254
	// Size is the number of VMs that have an address.
	Size = last - first + 1
)

// Addresses yields those of VMs, lowest first.
func Addresses() iter.Seq[netip.Addr] {
	return func(yield func(netip.Addr) bool) {
		bytes := Network.Addr().As4()
		for host := first; host <= last; host++ {
			bytes[3] = byte(host)
			if !yield(netip.AddrFrom4(bytes)) {
				return
			}
		}
	}
}

// WithLength adds the network's prefix length to an address of it.
func WithLength(addr netip.Addr) netip.Prefix { return netip.PrefixFrom(addr, Network.Bits()) }

// MAC is the locally administered MAC address that goes with a VM's address.
func MAC(addr netip.Addr) string {
	ip := addr.As4()
	return fmt.Sprintf("06:00:%02x:%02x:%02x:%02x", ip[0], ip[1], ip[2], ip[3])
}
