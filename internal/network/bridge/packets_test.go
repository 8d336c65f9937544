package bridge

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"banger/internal/network/netnstest"
	"banger/internal/network/plan"
	"banger/internal/network/policy"
)

var (
	boxAddr, otherAddr = netip.MustParseAddr("172.16.0.16"), netip.MustParseAddr("172.16.0.17")
	spoofAddr          = netip.MustParseAddr("172.16.0.18")
)

// silence is how long nothing must come where packets are dropped.
const silence = time.Second

// scene is a host with a world around it and guests on its bridge.
type scene struct {
	world *netnstest.World
	// box and other are well-behaved; liar has a TAP device of its own and
	// speaks with the addresses of nobody.
	box, other, liar *guest
}

func newScene(t *testing.T) *scene {
	t.Helper()
	s := &scene{world: makeWorld(t)}
	setUp(t, testHost(t), settings(4))
	serve(t, fmt.Sprint("0.0.0.0:", port))
	serve(t, fmt.Sprint(plan.Gateway, ":", NamesPort))
	s.box = newGuest(t, boxAddr, plan.MAC(boxAddr), boxAddr)
	s.other = newGuest(t, otherAddr, plan.MAC(otherAddr), otherAddr)
	s.liar = newGuest(t, spoofAddr, plan.MAC(spoofAddr), netip.MustParseAddr("172.16.0.99"))
	for _, g := range []struct {
		*guest
		addr netip.Addr
	}{{s.box, boxAddr}, {s.other, otherAddr}} {
		listener, err := g.ListenTCP(netip.AddrPortFrom(g.addr, port))
		if err != nil {
			t.Fatal(err)
		}
		go serveTCP(listener)
	}
	return s
}

// ask connects and reads what the server sees.
func ask(t *testing.T, g *guest, addr netip.Addr, port uint16, limit time.Duration) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	conn, err := g.DialTCP(ctx, netip.AddrPortFrom(addr, port))
	if err != nil {
		return "", err
	}
	return read(conn, limit)
}

func read(conn net.Conn, limit time.Duration) (string, error) {
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(limit)); err != nil {
		return "", err
	}
	said, err := io.ReadAll(conn)
	return string(said), err
}

func askFrom(t *testing.T, from, addr netip.Addr, port uint16, limit time.Duration) (string, error) {
	t.Helper()
	dialer := net.Dialer{Timeout: limit, LocalAddr: net.TCPAddrFromAddrPort(netip.AddrPortFrom(from, 0))}
	conn, err := dialer.DialContext(t.Context(), "tcp4", netip.AddrPortFrom(addr, port).String())
	if err != nil {
		return "", err
	}
	return read(conn, limit)
}

// refused wants a refusal that is seen at once.
func refused(t *testing.T, g *guest, addr string) error {
	t.Helper()
	began := time.Now()
	said, err := ask(t, g, netip.MustParseAddr(addr), port, 10*time.Second)
	switch {
	case err == nil:
		return fmt.Errorf("%s is reached, as %s", addr, said)
	case !strings.Contains(err.Error(), "refused"):
		return fmt.Errorf("%s is not refused, after %v: %w", addr, time.Since(began), err)
	}
	return nil
}

func (s *scene) internet(t *testing.T) error {
	t.Helper()
	said, err := ask(t, s.box, internet, port, 5*time.Second)
	if err == nil && !strings.HasPrefix(said, uplink.Addr().String()+":") {
		err = fmt.Errorf("the internet sees %q", said)
	}
	return err
}

func (s *scene) lan(addr string) func(t *testing.T) error {
	return func(t *testing.T) error {
		t.Helper()
		return refused(t, s.box, addr)
	}
}

func (s *scene) udp(t *testing.T) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if err := s.box.ProbeUDP(ctx, netip.AddrPortFrom(netip.MustParseAddr("10.1.2.3"), port)); err == nil || !strings.Contains(err.Error(), "refused") {
		return fmt.Errorf("UDP to the host's network: %w", err)
	}
	if err := s.box.ProbeUDP(ctx, netip.AddrPortFrom(internet, port)); err != nil {
		return fmt.Errorf("UDP to the internet: %w", err)
	}
	return nil
}

func (s *scene) host(t *testing.T) error {
	t.Helper()
	return errors.Join(refused(t, s.box, plan.Gateway.String()), refused(t, s.box, uplink.Addr().String()))
}

func (s *scene) guests(t *testing.T) error {
	t.Helper()
	return refused(t, s.box, otherAddr.String())
}

func (s *scene) fromHost(t *testing.T) error {
	t.Helper()
	said, err := askFrom(t, plan.Gateway, otherAddr, port, 5*time.Second)
	if err == nil && !strings.HasPrefix(said, plan.Gateway.String()+":") {
		err = fmt.Errorf("the guest sees %q", said)
	}
	return err
}

func (s *scene) names(t *testing.T) error {
	t.Helper()
	said, err := ask(t, s.box, plan.Gateway, 53, 5*time.Second)
	if err == nil && !strings.HasPrefix(said, boxAddr.String()+":") {
		err = fmt.Errorf("bangerd sees %q", said)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	return errors.Join(err, s.box.ProbeUDP(ctx, netip.AddrPortFrom(plan.Gateway, 53)))
}

// fromWorld is somebody in the host's network who sends to guests by way of it.
func (s *scene) fromWorld(addr netip.Addr, port uint16) func(t *testing.T) error {
	return func(t *testing.T) error {
		t.Helper()
		var said string
		var err error
		s.world.Do(t, func() { said, err = askFrom(t, internet, addr, port, silence) })
		if err == nil || !strings.Contains(err.Error(), "timeout") {
			return fmt.Errorf("from around the host %v answers %q, %w", addr, said, err)
		}
		return nil
	}
}

// spoof sends with an address of nobody.
func (s *scene) spoof(t *testing.T) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), silence)
	defer cancel()
	conn, err := s.liar.DialUDP(netip.AddrPortFrom(internet, port))
	if err != nil {
		return err
	}
	defer conn.Close()
	heard := make(chan string, 1)
	var listener net.PacketConn
	s.world.Do(t, func() { listener, err = new(net.ListenConfig).ListenPacket(ctx, "udp4", internet.String()+":9") })
	if err != nil {
		return err
	}
	defer listener.Close()
	go func() {
		buf := make([]byte, 100)
		if _, from, err := listener.ReadFrom(buf); err == nil {
			heard <- from.String()
		}
	}()
	out, err := s.liar.DialUDP(netip.AddrPortFrom(internet, 9))
	if err != nil {
		return err
	}
	defer out.Close()
	for {
		if _, err := out.Write([]byte("x")); err != nil {
			return nil // it does not even learn where the gateway is
		}
		select {
		case from := <-heard:
			return fmt.Errorf("a packet from an address of nobody got to the internet, as %s", from)
		case <-ctx.Done():
			return nil
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// poison claims another guest's address on the bridge.
func (s *scene) poison(t *testing.T) error {
	t.Helper()
	if err := s.fromHost(t); err != nil {
		return err
	}
	bridge, err := netlink.LinkByName(Name)
	if err != nil {
		return err
	}
	hostMAC := bridge.Attrs().HardwareAddr
	claim := slices.Concat(hostMAC, s.box.mac, []byte{8, 6, 0, 1, 8, 0, 6, 4, 0, 2}, s.box.mac, otherAddr.AsSlice(), hostMAC, plan.Gateway.AsSlice())
	// The kernel does not believe a change within a second.
	for range 15 {
		if _, err := s.box.tap.file.Write(claim); err != nil {
			return err
		}
		time.Sleep(100 * time.Millisecond)
	}
	neighbours, err := netlink.NeighList(bridge.Attrs().Index, netlink.FAMILY_V4)
	if err != nil {
		return err
	}
	for _, n := range neighbours {
		if n.IP.String() == otherAddr.String() && n.HardwareAddr.String() == s.box.mac.String() {
			return errors.New("the host believes a guest that claims another's address")
		}
	}
	return nil
}

func TestPackets(t *testing.T) {
	t.Parallel()
	if !netnstest.Enter(t) {
		return
	}
	s := newScene(t)
	checks := map[string]func(*testing.T) error{
		"internet": s.internet, "UDP": s.udp, "host": s.host, "guests": s.guests, "from the host": s.fromHost, "names": s.names,
		"from the world": s.fromWorld(otherAddr, port), "names, from the world": s.fromWorld(plan.Gateway, NamesPort), "spoof": s.spoof, "poison": s.poison,
	}
	for _, addr := range off {
		checks[addr] = s.lan(addr)
	}
	for name, check := range checks {
		if err := check(t); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	// Each rule matters: without it a check fails.
	rules, err := ruleset(settings(4), must(attached()))
	if err != nil {
		t.Fatal(err)
	}
	for _, mutation := range []struct{ rule, instead, check string }{
		{`oifname != "banger0" masquerade`, `oifname "nowhere" masquerade`, "internet"},
		{"ip daddr 10.0.0.0/8 goto refuse\n", "\n", "10.1.2.3"},
		{"ip daddr 10.0.0.0/8 goto refuse\n", "\n", "UDP"},
		{"ip daddr 100.64.0.0/10 goto refuse\n", "\n", "100.64.0.9"},
		{"ip daddr 169.254.0.0/16 goto refuse\n", "\n", "169.254.169.254"},
		{"ip daddr 172.16.0.0/12 goto refuse\n", "\n", "172.20.0.2"},
		{"ip daddr 192.0.0.0/24 goto refuse\n", "\n", "192.0.0.8"},
		{"ip daddr 192.168.0.0/16 goto refuse\n", "\n", "192.168.5.5"},
		{"ip daddr 198.18.0.0/15 goto refuse\n", "\n", "198.18.0.1"},
		{"ip daddr 198.51.100.0/24 goto refuse\n", "\n", "198.51.100.1"},
		{"\t\tgoto refuse\n", "\t\taccept\n", "host"},
		{"ip daddr 172.16.0.0/24 goto refuse\n", "ip daddr 172.16.0.0/24 accept\n", "guests"},
		{"ct state established,related accept\n\t\tip daddr 172.16.0.1 meta", "\t\tip daddr 172.16.0.1 meta", "from the host"},
		{"redirect to :42053", "redirect to :42054", "names"},
		{"th dport 42053 accept\n", "th dport 42054 accept\n", "names"},
		{"oifname \"banger0\" drop\n", "\n", "from the world"},
		{"iifname != \"lo\" ip daddr 172.16.0.1 drop\n", "\n", "names, from the world"},
		{"oifname \"banger0\" ct state established,related accept\n", "\n", "internet"},
		{"ip-senders accept\n", "ip-senders accept\n ether type { ip, arp } accept\n", "spoof"},
		{"arp-senders accept\n", "arp-senders accept\n ether type arp accept\n", "poison"},
	} {
		mutated := strings.Replace(rules, mutation.rule, mutation.instead, 1)
		if mutated == rules {
			t.Errorf("there is no %q", mutation.rule)
			continue
		}
		if err := loadRules(t.Context(), mutated); err != nil {
			t.Error(err)
			continue
		}
		if err := checks[mutation.check](t); err == nil {
			t.Errorf("without %q the check %q passes", mutation.rule, mutation.check)
		}
	}
	if err := loadRules(t.Context(), rules); err != nil {
		t.Fatal(err)
	}
	// Guests that know each other's MAC address do not need the host, nor do
	// their packets get to its rules on most hosts.
	const filterBridges = "/proc/sys/net/bridge/bridge-nf-call-iptables"
	if err := writeSetting(filterBridges, "0"); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	s.box.Neighbour(t, otherAddr, s.other.mac)
	s.other.Neighbour(t, boxAddr, s.box.mac)
	if said, err := ask(t, s.box, otherAddr, port, silence); err == nil {
		t.Errorf("guests reach each other on the bridge, as %s", said)
	}
	for _, addr := range []netip.Addr{boxAddr, otherAddr} {
		link, err := netlink.LinkByName(TAP(addr))
		if err == nil {
			err = netlink.LinkSetIsolated(link, false)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, err := ask(t, s.box, otherAddr, port, 5*time.Second); err != nil {
		t.Errorf("it is not the isolation of ports that keeps guests apart: %v", err)
	}
}

func TestPacketsAllowed(t *testing.T) {
	t.Parallel()
	if !netnstest.Enter(t) {
		return
	}
	h := testHost(t)
	makeWorld(t)
	allowed := settings(2)
	allowed.Policy = policy.Policy{Host: true, Guests: true, Allow: policy.Prefixes("10.1.0.0/16", "169.254.169.254/32")}
	setUp(t, h, allowed)
	serve(t, fmt.Sprint("0.0.0.0:", port))
	box, other := newGuest(t, boxAddr, plan.MAC(boxAddr), boxAddr), newGuest(t, otherAddr, plan.MAC(otherAddr), otherAddr)
	listener, err := other.ListenTCP(netip.AddrPortFrom(otherAddr, port))
	if err != nil {
		t.Fatal(err)
	}
	go serveTCP(listener)
	reach := func(addrs ...string) {
		t.Helper()
		for _, addr := range addrs {
			if _, err := ask(t, box, netip.MustParseAddr(addr), port, 5*time.Second); err != nil {
				t.Errorf("%s: %v", addr, err)
			}
		}
	}
	reach(internet.String(), plan.Gateway.String(), uplink.Addr().String(), otherAddr.String(), "10.1.2.3", "169.254.169.254")
	for _, addr := range []string{"192.168.5.5", "198.51.100.1"} {
		if err := refused(t, box, addr); err != nil {
			t.Error(err)
		}
	}
	// Another policy, while VMs run.
	allowed.Policy = policy.Policy{LAN: true}
	setUp(t, h, allowed)
	reach("10.1.2.3", "192.168.5.5", "198.51.100.1")
	for _, addr := range []string{"169.254.169.254", plan.Gateway.String(), uplink.Addr().String()} {
		if err := refused(t, box, addr); err != nil {
			t.Error(err)
		}
	}
}

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}
