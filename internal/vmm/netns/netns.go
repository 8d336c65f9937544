// Package netns makes the network of a VMM that takes TAP devices only, without
// root: in a user and network namespace of the VMM's own there is a TAP for it,
// and a second one, bridged to the first, whose descriptor goes to the process
// that carries the guest's traffic. All of it ends with the two processes.
package netns

import (
	"errors"
	"fmt"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// TAP is the device in the namespace that the VMM opens. It needs no
// capability for that.
const TAP = "tap0"

const (
	uplink = "up0"
	bridge = "br0"
	// mtu is the most that a TAP takes: frames of any size get through.
	mtu = 65521
	// queue is how many frames wait for the VMM, or for the other end, before
	// one is lost.
	queue = 1000
)

// Device is what TAPs are made with.
const Device = "/dev/net/tun"

// HeaderSize is that of the struct virtio_net_hdr before each frame. In one that
// was read it says what the guest has left to others, such as checksums; in one
// that is written zeros say that nothing is.
const HeaderSize = 10

// Setup makes the devices in this process's namespace, in which it needs
// CAP_NET_ADMIN, and returns the descriptor of the other end of the VMM's TAP,
// which does not block: each read is one Ethernet frame, and so is each write,
// behind a header of [HeaderSize] bytes.
func Setup() (_ int, err error) {
	tap, err := OpenTAP(TAP)
	if err != nil {
		return -1, err
	}
	defer func() { _ = unix.Close(tap) }()
	err = errors.Join(
		unix.IoctlSetInt(tap, unix.TUNSETOWNER, os.Geteuid()),
		unix.IoctlSetInt(tap, unix.TUNSETPERSIST, 1), // until the VMM opens it
	)
	if err != nil {
		return -1, fmt.Errorf("cannot set up a TAP device: %w", err)
	}
	up, err := OpenTAP(uplink)
	if err != nil {
		return -1, err
	}
	defer func() {
		if err != nil {
			_ = unix.Close(up)
		}
	}()
	// Large segments stay whole, and checksums that the guest has left out
	// need not be made for the little way there is.
	if err := unix.IoctlSetInt(up, unix.TUNSETOFFLOAD, unix.TUN_F_CSUM|unix.TUN_F_TSO4|unix.TUN_F_TSO6); err != nil {
		return -1, fmt.Errorf("cannot set up a TAP device: %w", err)
	}
	return up, join()
}

// OpenTAP opens a TAP device as VMMs do, which makes it if it is not there.
func OpenTAP(name string) (int, error) {
	fd, err := unix.Open(Device, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return -1, fmt.Errorf("cannot open %s: %w", Device, err)
	}
	request, err := unix.NewIfreq(name)
	if err == nil {
		request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
	}
	if err != nil {
		_ = unix.Close(fd)
		return -1, fmt.Errorf("cannot make a TAP device: %w", err)
	}
	return fd, nil
}

// Connect is [Setup] for the process at the other end of a unix socket, which
// gets the descriptor. As long as this process, or what it becomes, keeps the
// socket open the other one knows that the VMM is there.
func Connect(socket int) error {
	up, err := Setup()
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(up) }()
	if err := unix.Sendmsg(socket, []byte{0}, unix.UnixRights(up), nil, unix.MSG_NOSIGNAL); err != nil {
		return fmt.Errorf("cannot hand a TAP device over: %w", err)
	}
	return nil
}

// join bridges the two devices.
func join() error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = bridge, mtu
	snooping := false
	joint := &netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &snooping}
	if err := netlink.LinkAdd(joint); err != nil {
		return fmt.Errorf("cannot make a bridge: %w", err)
	}
	for _, name := range []string{TAP, uplink} {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return fmt.Errorf("cannot find a TAP device: %w", err)
		}
		err = errors.Join(
			netlink.LinkSetMTU(link, mtu),
			netlink.LinkSetTxQLen(link, queue),
			netlink.LinkSetMaster(link, joint),
			// What there is to learn is the guest's to invent, without bound.
			netlink.LinkSetLearning(link, false),
			netlink.LinkSetUp(link),
		)
		if err != nil {
			return fmt.Errorf("cannot set up a TAP device: %w", err)
		}
	}
	if err := netlink.LinkSetUp(joint); err != nil {
		return fmt.Errorf("cannot set up a bridge: %w", err)
	}
	return nil
}
