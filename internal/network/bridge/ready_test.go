package bridge

import (
	"errors"
	"net/netip"
	"os"
	"strings"
	"testing"

	"banger/internal/network/netnstest"
	"banger/internal/network/policy"
)

func TestReady(t *testing.T) {
	t.Parallel()
	if !netnstest.Enter(t) {
		return
	}
	h := testHost(t)
	want := policy.Policy{Allow: policy.Prefixes("10.1.0.0/16")}
	s := settings(2)
	s.Policy = want
	uid := os.Getuid()
	check := func(what string, uid int, want policy.Policy, addr netip.Addr, complaint string) {
		t.Helper()
		err := Ready(h, uid, want, addr)
		if complaint == "" && err != nil || complaint != "" && (err == nil || !strings.Contains(err.Error(), complaint)) {
			t.Errorf("%s: %v, want %q", what, err, complaint)
		}
		if notSetUp := complaint == "it is not set up for you"; errors.Is(err, ErrNotSetUp) != notSetUp {
			t.Errorf("%s: %v", what, err)
		}
	}
	check("before", uid, want, boxAddr, "it is not set up for you")
	setUp(t, h, s)
	check("set up", uid, want, boxAddr, "")
	check("for some VM", uid, want, netip.Addr{}, "")
	check("another user", uid+1, want, boxAddr, "it is not set up for you")
	check("another policy", uid, policy.Policy{}, boxAddr, "network_access in config.toml has changed")
	check("beyond the TAP devices", uid, want, netip.MustParseAddr("172.16.0.18"), "it has 2 TAP devices")
	vm := openTAP(t, TAP(boxAddr))
	check("in use", uid, want, boxAddr, "in use by something else")
	check("another in use", uid, want, otherAddr, "")
	vm.Close()
	command(t, "sh", "-ec", "ip link add up0 type bridge; ip addr add 192.168.9.1/24 dev up0")
	check("in a private network", uid, want, boxAddr, "")
	command(t, "ip", "addr", "add", "198.51.100.2/24", "dev", "up0")
	check("in a public network", uid, want, boxAddr, "has come into the network 198.51.100.0/24")
	command(t, "ip", "addr", "del", "198.51.100.2/24", "dev", "up0")
	command(t, "ip", "link", "set", "banger0", "down")
	check("down", uid, want, boxAddr, "it is not there any more")
	command(t, "ip", "link", "del", "banger17")
	setUp(t, h, s)
	check("again", uid, want, otherAddr, "")
	command(t, "ip", "link", "del", "banger17")
	check("without its TAP device", uid, want, otherAddr, "no TAP device banger17 of yours")
	tearDown(t, h)
	check("taken down", uid, want, boxAddr, "it is not set up for you")
}
