package usernet

import (
	"errors"
	"net/netip"
	"testing"

	"banger/internal/network/policy"
)

func TestPolicy(t *testing.T) {
	t.Parallel()
	const port = 443
	host := policy.Policy{Host: true}
	lan := policy.Policy{LAN: true}
	all := policy.Policy{Host: true, LAN: true, Allow: policy.Prefixes("0.0.0.0/0", "::/0")}
	metadata := policy.Policy{Allow: policy.Prefixes("169.254.169.254/32")}
	tests := []struct {
		policy policy.Policy
		addr   string
		want   string // the address dialled, empty if refused
	}{
		// The internet.
		{policy.Policy{}, "1.1.1.1", "1.1.1.1"},
		{policy.Policy{}, "203.0.113.7", "203.0.113.7"},
		{policy.Policy{}, "172.15.255.255", "172.15.255.255"},
		{policy.Policy{}, "172.32.0.1", "172.32.0.1"},
		{policy.Policy{}, "100.63.255.255", "100.63.255.255"},
		{policy.Policy{}, "100.128.0.1", "100.128.0.1"},
		{policy.Policy{}, "2606:4700::1111", "2606:4700::1111"},
		{policy.Policy{}, "::ffff:1.1.1.1", "1.1.1.1"},

		// The host.
		{policy.Policy{}, "172.16.0.1", ""},
		{host, "172.16.0.1", "127.0.0.1"},
		{lan, "172.16.0.1", ""},
		{policy.Policy{}, "198.51.100.20", ""}, // the host's public address
		{lan, "198.51.100.20", ""},
		{policy.Policy{Allow: policy.Prefixes("198.51.100.0/24")}, "198.51.100.20", ""},
		{host, "198.51.100.20", "198.51.100.20"},
		{policy.Policy{}, "::ffff:198.51.100.20", ""},
		{policy.Policy{}, "2001:db8::20", ""},
		{policy.Policy{}, "192.168.7.20", ""},
		{lan, "192.168.7.20", ""},
		{host, "192.168.7.20", "192.168.7.20"},
		{policy.Policy{}, "203.0.113.200", ""}, // routed to the host, on no interface
		{lan, "203.0.113.200", ""},
		{policy.Policy{}, "64:ff9b::198.51.100.20", ""},
		{policy.Policy{}, "2002:c633:6414::1", ""}, // 6to4 of 198.51.100.20

		// Never.
		{all, "127.0.0.1", ""},
		{all, "127.8.9.10", ""},
		{all, "::1", ""},
		{all, "::ffff:127.0.0.1", ""},
		{all, "::127.0.0.1", ""},
		{all, "64:ff9b::127.0.0.1", ""},
		{all, "0.0.0.0", ""},
		{all, "0.1.2.3", ""},
		{all, "::", ""},
		{all, "::ffff:0.0.0.0", ""},
		{all, "255.255.255.255", ""},
		{all, "240.0.0.1", ""},
		{all, "224.0.0.251", ""},
		{all, "ff02::1", ""},
		{all, "172.16.0.9", ""}, // another VM
		{all, "172.16.0.255", ""},
		{all, "fe80::1%eth0", ""},

		// Private networks, and those that the host is in.
		{policy.Policy{}, "10.1.2.3", ""},
		{lan, "10.1.2.3", "10.1.2.3"},
		{policy.Policy{Allow: policy.Prefixes("10.1.0.0/16")}, "10.1.2.3", "10.1.2.3"},
		{policy.Policy{Allow: policy.Prefixes("10.1.0.0/16")}, "10.2.2.3", ""},
		{policy.Policy{}, "::ffff:10.1.2.3", ""},
		{policy.Policy{}, "64:ff9b::10.1.2.3", ""},
		{policy.Policy{}, "2002:0a01:0203::1", ""},
		{policy.Policy{}, "172.31.255.255", ""},
		{lan, "172.17.0.1", "172.17.0.1"},
		{policy.Policy{}, "192.168.7.1", ""},
		{policy.Policy{}, "100.64.0.1", ""},
		{policy.Policy{}, "100.127.255.255", ""},
		{policy.Policy{}, "198.18.0.1", ""},
		{policy.Policy{}, "192.0.0.8", ""},
		{policy.Policy{}, "fd00::1", ""},
		{policy.Policy{}, "198.51.100.1", ""}, // next to the host's public address
		{lan, "198.51.100.1", "198.51.100.1"},
		{host, "198.51.100.1", ""},
		{policy.Policy{}, "2001:db8::1", ""},

		// Link-local.
		{policy.Policy{}, "169.254.169.254", ""},
		{lan, "169.254.169.254", ""},
		{host, "169.254.169.254", ""},
		{metadata, "169.254.169.254", "169.254.169.254"},
		{metadata, "169.254.169.253", ""},
		{lan, "fe80::1", ""},
		{lan, "::ffff:169.254.169.254", ""},
	}
	for _, test := range tests {
		j := judge{
			policy: test.policy, gateway: gateway, guests: guestPrefix.Masked(),
			hostNetworks: func() ([]netip.Prefix, error) {
				return policy.Prefixes("127.0.0.1/8", "198.51.100.20/24", "192.168.7.20/24", "2001:db8::20/64", "fe80::5/64"), nil
			},
			isLocal: func(addr netip.Addr) bool { return addr == netip.MustParseAddr("203.0.113.200") },
		}
		got, err := j.decide(netip.AddrPortFrom(netip.MustParseAddr(test.addr), port))
		if test.want == "" {
			if !errors.Is(err, errRefused) {
				t.Errorf("%+v: %s is not refused: %v, %v", test.policy, test.addr, got, err)
			}
			continue
		}
		if want := netip.AddrPortFrom(netip.MustParseAddr(test.want), port); err != nil || got != want {
			t.Errorf("%+v: %s: got %v, %v, want %v", test.policy, test.addr, got, err, want)
		}
	}
}

func TestPolicyFailsClosed(t *testing.T) {
	t.Parallel()
	j := judge{
		gateway: gateway, guests: guestPrefix.Masked(),
		hostNetworks: func() ([]netip.Prefix, error) { return nil, errors.New("no interfaces today") },
		isLocal:      func(netip.Addr) bool { return false },
	}
	if _, err := j.decide(netip.MustParseAddrPort("1.1.1.1:443")); !errors.Is(err, errRefused) {
		t.Errorf("got %v", err)
	}
}

// The host's real addresses, all of them, are refused.
func TestPolicyRealHost(t *testing.T) {
	t.Parallel()
	j := judge{gateway: gateway, guests: guestPrefix.Masked(), hostNetworks: policy.HostNetworks, isLocal: routedToSelf}
	networks, err := policy.HostNetworks()
	if err != nil {
		t.Fatal(err)
	}
	if len(networks) == 0 {
		t.Fatal("this host has no address, not even loopback")
	}
	for _, network := range networks {
		if got, err := j.decide(netip.AddrPortFrom(network.Addr().WithZone(""), 22)); !errors.Is(err, errRefused) {
			t.Errorf("%v is not refused: %v, %v", network, got, err)
		}
	}
}
