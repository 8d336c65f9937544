package forward

import (
	"net/netip"
	"testing"
)

func TestAddress(t *testing.T) {
	t.Parallel()
	guest := netip.MustParseAddr("172.16.0.7")
	seen := map[netip.Addr]int{}
	for uid := range 64516 {
		address, err := Address(uid, guest)
		if err != nil || !address.IsLoopback() || address.As4()[1] == 0 || address.As4()[2] == 0 || address.As4()[3] != 7 {
			t.Fatalf("user %d: %v, %v", uid, address, err)
		}
		if other, ok := seen[address]; ok {
			t.Fatalf("users %d and %d share %v", other, uid, address)
		}
		seen[address] = uid
	}
	if _, err := Address(0, netip.IPv6Loopback()); err == nil {
		t.Error("an IPv6 address was taken")
	}
	if _, err := Address(1<<32-1, guest); err != nil {
		t.Error(err)
	}
}
