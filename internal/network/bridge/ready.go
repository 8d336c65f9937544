package bridge

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"

	"banger/internal/api"
	"banger/internal/network/policy"
)

// ErrNotSetUp says that there is no bridge for the user.
var ErrNotSetUp error = &api.Error{Kind: api.KindState, Message: "cannot use the bridge " + Name + ": it is not set up for you", Hint: "sudo banger network setup"}

// Ready says whether the VM with an address of the plan can be connected to the
// bridge now, for a user who wants this policy: the TAP device is [TAP]. An
// address that is not valid stands for some VM. It is for bangerd, which cannot
// change any of it: where the rules are not those that the configuration asks
// for, the bridge is not used.
func Ready(h Host, uid int, want policy.Policy, addr netip.Addr) error {
	r, err := h.load()
	if err != nil {
		return err
	}
	if r == nil || r.UID != uid {
		return ErrNotSetUp
	}
	if err := r.fits(want); err != nil {
		return &api.Error{Kind: api.KindState, Message: fmt.Sprintf("cannot use the bridge %s: %v", Name, err), Hint: "sudo banger network setup"}
	}
	if !addr.IsValid() {
		return nil
	}
	if !slices.Contains(r.addresses(), addr) {
		return &api.Error{
			Kind:    api.KindState,
			Message: fmt.Sprintf("cannot use the bridge %s: it has %d TAP devices, and none for %v", Name, r.TAPs, addr),
			Hint:    "sudo banger network setup --taps 200",
		}
	}
	tap, err := find(TAP(addr))
	if err != nil {
		return err
	}
	if tap == nil || !r.isOurs(tap) {
		return &api.Error{Kind: api.KindState, Message: fmt.Sprintf("cannot use the bridge %s: there is no TAP device %s of yours", Name, TAP(addr)), Hint: "sudo banger network setup"}
	}
	if inUse(tap) {
		return &api.Error{Kind: api.KindState, Message: fmt.Sprintf("cannot use the bridge %s: the TAP device %s is in use by something else", Name, TAP(addr))}
	}
	return nil
}

// fits says why the bridge is not what a user wants, if so.
func (r *record) fits(want policy.Policy) error {
	if !r.Complete {
		return errors.New("its setup did not get to the end")
	}
	bridge, err := find(Name)
	if err != nil {
		return err
	}
	if bridge == nil || !r.isOurs(bridge) || bridge.Attrs().Flags&net.FlagUp == 0 {
		return errors.New("it is not there any more")
	}
	if addrs, err := netlink.AddrList(bridge, netlink.FAMILY_V4); err != nil || len(addrs) == 0 {
		return errors.Join(errors.New("it has no address"), err)
	}
	if !r.Policy.Equal(want) {
		return errors.New("network_access in config.toml has changed since it was set up")
	}
	if want.LAN {
		return nil
	}
	now, err := attached()
	if err != nil {
		return err
	}
	for _, network := range now {
		if !slices.Contains(r.Attached, network) {
			return fmt.Errorf("this host has come into the network %v since it was set up, which guests must not reach", network)
		}
	}
	return nil
}
