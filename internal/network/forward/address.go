package forward

import (
	"fmt"
	"net/netip"
)

// Address is the loopback address of this host that stands for a guest. It
// depends on the user and on the guest's address only, so that a VM has one
// for life: the last byte is the guest's, the two before it are the user's,
// who shares them with those only whose ids are 64516 apart. It is never one
// of 127.0.0.0/16, where others have theirs.
func Address(uid int, guest netip.Addr) (netip.Addr, error) {
	if !guest.Is4() {
		return netip.Addr{}, fmt.Errorf("cannot tell the loopback address for %v: it is not an IPv4 address", guest)
	}
	const values = 254 // 1 to 254
	user := uint(uid)
	return netip.AddrFrom4([4]byte{127, byte(1 + user/values%values), byte(1 + user%values), guest.As4()[3]}), nil
}
