// Package bridge is the network mode in which guests are on a bridge of the
// host. Root sets it up once, for one user, with [Setup]; from then on nothing
// of banger runs as root, and the user's VMMs open the TAP devices that are
// theirs.
//
// Everything that holds a guest in its place is static, so that nobody has to
// look after it: each address of the plan has a TAP device of its own, on which
// only that address and its MAC address get through; what guests reach is
// nftables rules.
package bridge

import (
	"fmt"
	"net/netip"
	"strconv"

	"banger/internal/network/plan"
	"banger/internal/network/policy"
)

const (
	// Name is the bridge's, and the beginning of those of its TAP devices.
	Name, tapPrefix = "banger0", "banger"
	// DefaultTAPs is how many VMs can be on the bridge if nobody says.
	DefaultTAPs = 32
	// NamesPort is where bangerd answers the DNS questions of guests, at the
	// gateway's address: guests ask port 53, which it may not have.
	NamesPort = 42053
	// table is the name of the nftables tables.
	table = "banger"
)

// families are those of the nftables tables.
var families = []string{"inet", "netdev"}

// TAP is the device of the guest that has an address of the plan.
func TAP(addr netip.Addr) string {
	bytes := addr.As4()
	return tapPrefix + strconv.Itoa(int(bytes[3]))
}

// Settings are what a setup is asked for.
type Settings struct {
	// User and UID say who may use it.
	User string `json:"user"`
	UID  int    `json:"uid"`
	// TAPs is how many VMs can be connected: those with the lowest addresses.
	TAPs   int           `json:"taps"`
	Policy policy.Policy `json:"policy"`
	// DNSPort is where bangerd answers for NAME.vm on 127.0.0.1, 0 if it does
	// not.
	DNSPort int `json:"dns_port"`
}

func (s Settings) check() error {
	if s.TAPs < 1 || s.TAPs > plan.Size {
		return fmt.Errorf("cannot make %d TAP devices: 1 to %d can be", s.TAPs, plan.Size)
	}
	return nil
}

// addresses are those that have a TAP device.
func (s Settings) addresses() []netip.Addr {
	var list []netip.Addr
	for addr := range plan.Addresses() {
		if len(list) == s.TAPs {
			break
		}
		list = append(list, addr)
	}
	return list
}
