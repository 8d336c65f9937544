package configure

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"time"
	"unsafe"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"banger/internal/agent/wire"
)

// Kernel sets the host name, clock, entropy and network of the running kernel.
func Kernel(ctx context.Context, c wire.Configuration) error {
	if err := unix.Sethostname([]byte(c.Hostname)); err != nil {
		return fmt.Errorf("cannot set the host name: %w", err)
	}
	if err := clock(c.Time); err != nil {
		return fmt.Errorf("cannot set the clock: %w", err)
	}
	if err := entropy(c.Entropy); err != nil {
		return fmt.Errorf("cannot add entropy: %w", err)
	}
	if err := network(ctx, c.Interface); err != nil {
		return fmt.Errorf("cannot set up the network: %w", err)
	}
	return nil
}

// maxSkew is how wrong the clock may be before it is set: a jump back, even a
// small one, does more harm.
const maxSkew = 500 * time.Millisecond

func clock(t time.Time) error {
	if t.IsZero() || time.Since(t).Abs() < maxSkew {
		return nil
	}
	ts := unix.NsecToTimespec(t.UnixNano())
	return unix.ClockSettime(unix.CLOCK_REALTIME, &ts)
}

// entropy credits bytes that are secret and random to the kernel's pool and
// makes its generator use them at once.
func entropy(b []byte) error {
	if len(b) == 0 {
		return nil
	}
	random, err := os.OpenFile("/dev/urandom", os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer random.Close()
	// struct rand_pool_info: bits, bytes, then the bytes.
	info := binary.NativeEndian.AppendUint32(nil, uint32(len(b)*8))
	info = binary.NativeEndian.AppendUint32(info, uint32(len(b)))
	info = append(info, b...)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, random.Fd(), unix.RNDADDENTROPY, uintptr(unsafe.Pointer(&info[0]))); errno != 0 {
		return errno
	}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, random.Fd(), reseed, 0); errno != 0 {
		return errno
	}
	return nil
}

// reseed is RNDRESEEDCRNG: _IO('R', 7).
const reseed = 'R'<<8 | 7

// wanted is a parsed wire.Interface.
type wanted struct {
	mac     net.HardwareAddr
	address netip.Prefix
	gateway netip.Addr // zero for none
	mtu     int
}

func parseInterface(i wire.Interface) (wanted, error) {
	var w wanted
	var err error
	if w.mac, err = net.ParseMAC(i.MAC); err != nil {
		return w, bad("MAC address", i.MAC)
	}
	if w.address, err = netip.ParsePrefix(i.Address); err != nil {
		return w, bad("address", i.Address)
	}
	if i.Gateway != "" {
		if w.gateway, err = netip.ParseAddr(i.Gateway); err != nil {
			return w, bad("gateway", i.Gateway)
		}
	}
	if w.mtu = i.MTU; w.mtu < 0 || w.mtu > 65535 {
		return w, bad("MTU", strconv.Itoa(i.MTU))
	}
	return w, nil
}

func network(ctx context.Context, i *wire.Interface) error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return err
	}
	if i == nil {
		return nil
	}
	w, err := parseInterface(*i)
	if err != nil {
		return err
	}
	link, err := findLink(ctx, w.mac)
	if err != nil {
		return err
	}
	if w.mtu != 0 {
		if err := netlink.LinkSetMTU(link, w.mtu); err != nil {
			return err
		}
	}
	// Another address is an earlier identity's.
	old, err := netlink.AddrList(link, netlink.FAMILY_V4)
	if err != nil {
		return err
	}
	ipNet := &net.IPNet{IP: w.address.Addr().AsSlice(), Mask: net.CIDRMask(w.address.Bits(), w.address.Addr().BitLen())}
	for _, a := range old {
		if a.IPNet.String() != ipNet.String() {
			if err := netlink.AddrDel(link, &a); err != nil {
				return err
			}
		}
	}
	if err := netlink.AddrReplace(link, &netlink.Addr{IPNet: ipNet}); err != nil {
		return err
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return err
	}
	if !w.gateway.IsValid() {
		return nil
	}
	return netlink.RouteReplace(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: w.gateway.AsSlice()})
}

// linkTimeout bounds the wait for the interface's driver.
const linkTimeout = 5 * time.Second

func findLink(ctx context.Context, mac net.HardwareAddr) (netlink.Link, error) {
	ctx, cancel := context.WithTimeout(ctx, linkTimeout)
	defer cancel()
	for {
		links, err := netlink.LinkList()
		if err != nil {
			return nil, err
		}
		for _, l := range links {
			if l.Attrs().HardwareAddr.String() == mac.String() {
				return l, nil
			}
		}
		select {
		case <-ctx.Done():
			return nil, errors.New("there is no interface with the address " + mac.String())
		case <-time.After(5 * time.Millisecond):
		}
	}
}
