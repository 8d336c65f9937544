package bridge

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"banger/internal/network/plan"
)

// find returns nil where there is no such link.
func find(name string) (netlink.Link, error) {
	link, err := netlink.LinkByName(name)
	if errors.As(err, &netlink.LinkNotFoundError{}) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot look for the link %q: %w", name, err)
	}
	return link, nil
}

// isOurs says whether a link with one of our names is what a setup made.
func (r *record) isOurs(link netlink.Link) bool {
	switch l := link.(type) {
	case *netlink.Bridge:
		return l.Name == Name && l.HardwareAddr.String() == r.MAC
	case *netlink.Tuntap:
		return l.Name != Name && l.Mode == netlink.TUNTAP_MODE_TAP && int(l.Owner) == r.UID
	}
	return false
}

// inUse says whether a VMM has a TAP device open.
func inUse(link netlink.Link) bool { return link.Attrs().RawFlags&unix.IFF_LOWER_UP != 0 }

// named returns the links that have one of our names, the bridge first; a TAP
// of the plan has its address, the bridge none.
func named() (links []netlink.Link, addrs []netip.Addr, err error) {
	add := func(name string, addr netip.Addr) {
		link, findErr := find(name)
		err = errors.Join(err, findErr)
		if link != nil {
			links, addrs = append(links, link), append(addrs, addr)
		}
	}
	add(Name, netip.Addr{})
	for addr := range plan.Addresses() {
		add(TAP(addr), addr)
	}
	return links, addrs, err
}

// makeBridge makes the bridge with its address, and leaves it down.
func makeBridge(r *record) (*netlink.Bridge, error) {
	mac, err := net.ParseMAC(r.MAC)
	if err != nil {
		return nil, fmt.Errorf("cannot make the bridge: %w", err)
	}
	link, err := find(Name)
	if err != nil {
		return nil, err
	}
	if link == nil {
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.HardwareAddr = Name, mac
		snooping := false
		if err := netlink.LinkAdd(&netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &snooping}); err != nil {
			return nil, fmt.Errorf("cannot make the bridge %s: %w", Name, err)
		}
		if link, err = netlink.LinkByName(Name); err != nil {
			return nil, fmt.Errorf("cannot make the bridge %s: %w", Name, err)
		}
	}
	bridge, ok := link.(*netlink.Bridge)
	if !ok || !r.isOurs(link) {
		return nil, foreign("link " + Name)
	}
	if err := withoutIPv6(Name); err != nil {
		return nil, err
	}
	// Guests do not hear each other: the host answers for all, to say no.
	answer := "1"
	if r.Policy.Guests {
		answer = "0"
	}
	if err := writeSetting("/proc/sys/net/ipv4/conf/"+Name+"/proxy_arp_pvlan", answer); err != nil {
		return nil, fmt.Errorf("cannot set up the bridge %s: %w", Name, err)
	}
	address, err := netlink.ParseAddr(plan.WithLength(plan.Gateway).String())
	if err != nil {
		return nil, err
	}
	if err := netlink.AddrReplace(bridge, address); err != nil {
		return nil, fmt.Errorf("cannot give the bridge %s its address: %w", Name, err)
	}
	return bridge, nil
}

// withoutIPv6 keeps the kernel from giving a link an address by itself.
func withoutIPv6(name string) error {
	path := filepath.Join("/proc/sys/net/ipv6/conf", name, "disable_ipv6")
	if err := writeSetting(path, "1"); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("cannot turn IPv6 off on %s: %w", name, err)
	}
	return nil
}

// makeTAP makes a TAP device of the user's on the bridge. A new one is down.
func makeTAP(r *record, bridge *netlink.Bridge, addr netip.Addr) (netlink.Link, error) {
	name := TAP(addr)
	link, err := find(name)
	if err != nil {
		return nil, err
	}
	if link == nil {
		if err := createTAP(name, r.UID); err != nil {
			return nil, fmt.Errorf("cannot make the TAP device %s: %w", name, err)
		}
		if link, err = netlink.LinkByName(name); err != nil {
			return nil, fmt.Errorf("cannot make the TAP device %s: %w", name, err)
		}
	}
	if !r.isOurs(link) {
		return nil, foreign("link " + name)
	}
	if err := withoutIPv6(name); err != nil {
		return nil, err
	}
	if link.Attrs().MasterIndex != bridge.Index {
		err = netlink.LinkSetMaster(link, bridge)
	}
	if err == nil {
		err = netlink.LinkSetIsolated(link, !r.Policy.Guests)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot put the TAP device %s on the bridge: %w", name, err)
	}
	return link, nil
}

// createTAP makes a persistent TAP device that its owner may open. Until the
// last step it ends with this process.
func createTAP(name string, uid int) error {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("cannot open /dev/net/tun: %w", err)
	}
	defer func() { _ = unix.Close(fd) }()
	request, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_TUN_EXCL)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
		return err
	}
	if err := unix.IoctlSetInt(fd, unix.TUNSETOWNER, uid); err != nil {
		return err
	}
	return unix.IoctlSetInt(fd, unix.TUNSETPERSIST, 1)
}

func remove(link netlink.Link) error {
	if err := netlink.LinkDel(link); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("cannot remove the link %s: %w", link.Attrs().Name, err)
	}
	return nil
}

// collision finds what uses the plan's network already.
func collision() error {
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return fmt.Errorf("cannot list the routes: %w", err)
	}
	for _, route := range routes {
		dst, ok := prefixOf(route.Dst)
		// Of fewer bits are pieces of "everywhere", as VPNs have them.
		const leastBits = 8
		if !ok || dst.Bits() < leastBits || !dst.Overlaps(plan.Network) {
			continue
		}
		name := nameOf(route.LinkIndex)
		if name == Name {
			continue
		}
		return collides("route", dst, name)
	}
	addrs, err := netlink.AddrList(nil, netlink.FAMILY_V4)
	if err != nil {
		return fmt.Errorf("cannot list the addresses: %w", err)
	}
	for _, addr := range addrs {
		own, ok := prefixOf(addr.IPNet)
		if name := nameOf(addr.LinkIndex); ok && name != Name && own.Bits() > 0 && own.Overlaps(plan.Network) {
			return collides("address", own, name)
		}
	}
	return nil
}

func nameOf(index int) string {
	link, err := netlink.LinkByIndex(index)
	if err != nil { // it has none, as a blackhole, or has gone since
		return ""
	}
	return link.Attrs().Name
}

func prefixOf(network *net.IPNet) (netip.Prefix, bool) {
	if network == nil {
		return netip.Prefix{}, false
	}
	addr, ok := netip.AddrFromSlice(network.IP)
	bits, _ := network.Mask.Size()
	return netip.PrefixFrom(addr.Unmap(), bits), ok
}
