package bridge

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"

	"banger/internal/api"
	"banger/internal/network/policy"
)

// Setup makes the network as s says, or makes of what is there what s says, and
// is root's. Where it cannot be it fails before it changes anything. executable
// is what systemd runs at boot; empty leaves that as it is. warn gets what the
// user should know about the host.
func Setup(ctx context.Context, h Host, s Settings, executable string, warn func(string)) error {
	if err := s.check(); err != nil {
		return err
	}
	unlock, err := h.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	boot := executable != ""
	if _, err := os.Stat(h.Systemd); boot && err != nil {
		executable = ""
	}
	r, err := h.prepare(ctx, s, executable)
	if err != nil {
		if old, loadErr := h.load(); old == nil && loadErr == nil {
			err = errors.Join(err, h.forget())
		}
		return err
	}
	rules, err := ruleset(s, r.Attached)
	if err != nil {
		return err
	}
	if err := h.save(r); err != nil {
		return err
	}
	if err := h.build(ctx, r, rules); err != nil {
		return err
	}
	if err := h.wireNames(ctx, s.DNSPort); err != nil {
		warn("systemd-resolved was not told about NAME.vm: " + err.Error())
	}
	if executable != "" {
		if err := h.installUnit(ctx, r, executable); err != nil {
			return err
		}
	} else if boot {
		warn("systemd does not run here, so that nothing repeats this at boot: run it again then")
	}
	r.Complete = true
	if err := h.save(r); err != nil {
		return err
	}
	chain, err := blocker(ctx)
	if chain != "" {
		warn(blocked(chain))
	}
	return err
}

// Restore is the [Setup] that was made before: it is for after a boot.
func Restore(ctx context.Context, h Host, warn func(string)) error {
	r, err := h.load()
	if err != nil {
		return err
	}
	if r == nil {
		return &api.Error{Kind: api.KindState, Message: "cannot set up the network again: it never was", Hint: "sudo banger network setup"}
	}
	return Setup(ctx, h, r.Settings, "", warn)
}

// blocked says what to do about a [blocker].
func blocked(chain string) string {
	return fmt.Sprintf("guests may not reach the internet: the firewall's chain %q drops what is forwarded; let what comes from and goes to %s through there, with Docker by: "+
		"iptables -I DOCKER-USER -i %s -j ACCEPT; iptables -I DOCKER-USER -o %s -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT", chain, Name, Name, Name)
}

// prepare makes the record of what is going to be there, and changes nothing.
func (h Host) prepare(ctx context.Context, s Settings, executable string) (*record, error) {
	old, err := h.load()
	if err != nil {
		return nil, err
	}
	if old != nil && old.UID != s.UID {
		return nil, &api.Error{
			Kind:    api.KindState,
			Message: fmt.Sprintf("cannot set up the network for %s: it is set up for %s, and serves one user", s.User, old.User),
			Hint:    "take that down first: sudo banger network teardown",
		}
	}
	links, addrs, err := named()
	if err != nil {
		return nil, err
	}
	for i, link := range links {
		if old == nil || !old.isOurs(link) {
			return nil, foreign("link " + link.Attrs().Name)
		}
		if addr := addrs[i]; addr.IsValid() && !slices.Contains(s.addresses(), addr) && inUse(link) {
			return nil, &api.Error{
				Kind:    api.KindState,
				Message: fmt.Sprintf("cannot do with %d TAP devices: a VM is using %s", s.TAPs, link.Attrs().Name),
				Hint:    "stop the VM with the address " + addr.String() + ", or keep more TAP devices",
			}
		}
	}
	if _, some, err := hasTables(ctx); err != nil {
		return nil, err
	} else if some && old == nil {
		return nil, foreign("firewall table " + table)
	}
	if err := collision(); err != nil {
		return nil, err
	}
	if _, err := os.Lstat(filepath.Join(h.Units, unitName)); err == nil && (old == nil || !old.Unit) {
		return nil, foreign("unit " + unitName)
	}
	if executable != "" {
		if err := h.checkCopy(old, executable); err != nil {
			return nil, err
		}
	}
	r := &record{MAC: randomMAC()}
	if old != nil {
		*r = *old
	}
	r.Settings, r.Complete = s, false
	if r.Attached, err = attached(); err != nil {
		return nil, err
	}
	boot, err := bootID()
	if err != nil {
		return nil, fmt.Errorf("cannot tell this boot from others: %w", err)
	}
	if r.BootID != boot {
		r.BootID = boot
		if r.Forwarding, err = readSetting(forwardingPath); err != nil {
			return nil, fmt.Errorf("cannot look whether the host forwards packets: %w", err)
		}
	}
	return r, nil
}

// build makes what the record says. Nothing carries a packet before the rules
// are there.
func (h Host) build(ctx context.Context, r *record, rules string) error {
	bridge, err := makeBridge(r)
	if err != nil {
		return err
	}
	var taps []netlink.Link
	for _, addr := range r.addresses() {
		tap, err := makeTAP(r, bridge, addr)
		if err != nil {
			return err
		}
		taps = append(taps, tap)
	}
	if err := loadRules(ctx, rules); err != nil {
		return err
	}
	links, addrs, err := named()
	if err != nil {
		return err
	}
	for i, link := range links {
		if addrs[i].IsValid() && !slices.Contains(r.addresses(), addrs[i]) {
			if err := remove(link); err != nil {
				return err
			}
		}
	}
	for _, link := range append(taps, bridge) {
		if err := netlink.LinkSetUp(link); err != nil {
			return fmt.Errorf("cannot bring %s up: %w", link.Attrs().Name, err)
		}
	}
	if err := writeSetting(forwardingPath, "1"); err != nil {
		return fmt.Errorf("cannot have the host forward packets: %w", err)
	}
	return nil
}

// Teardown removes what [Setup] made, however far it got, and nothing else. It
// says whether there was anything. With VMs on the bridge it refuses without
// force. warn gets what is not as it was before.
func Teardown(ctx context.Context, h Host, force bool, warn func(string)) (done bool, err error) {
	if _, err := os.Stat(h.State); errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	unlock, err := h.lock(ctx)
	if err != nil {
		return false, err
	}
	defer unlock()
	r, err := h.load()
	if err != nil {
		return false, err
	}
	if r == nil { // not even begun
		return false, h.forget()
	}
	links, _, err := named()
	if err != nil {
		return false, err
	}
	var busy []string
	for _, link := range links {
		if link.Type() == "tuntap" && inUse(link) {
			busy = append(busy, link.Attrs().Name)
		}
	}
	if len(busy) > 0 && !force {
		return false, &api.Error{
			Kind:    api.KindState,
			Message: "cannot take the network down: VMs are using " + strings.Join(busy, ", "),
			Hint:    "stop them, or use --force: they lose their network until their next start",
		}
	}
	r.Complete = false
	if err := h.save(r); err != nil {
		return false, err
	}
	if err := h.removeUnit(ctx, r); err != nil {
		return false, err
	}
	for _, link := range links {
		if r.isOurs(link) {
			if err := remove(link); err != nil {
				return false, err
			}
		}
	}
	if err := deleteTables(ctx); err != nil {
		return false, err
	}
	if boot, err := bootID(); err == nil && boot == r.BootID && r.Forwarding == "0" {
		if err := stopForwarding(ctx, warn); err != nil {
			return false, err
		}
	}
	return true, h.forget()
}

// attached lists the networks that the host is in and that are in no range
// which is refused anyway.
func attached() ([]netip.Prefix, error) {
	networks, err := policy.HostNetworks()
	if err != nil {
		return nil, fmt.Errorf("cannot list the host's networks: %w", err)
	}
	var list []netip.Prefix
	for _, network := range networks {
		if n := network.Masked(); n.Addr().Is4() && !policy.Refused(n) && !slices.Contains(list, n) {
			list = append(list, n)
		}
	}
	return list, nil
}

// randomMAC is locally administered.
func randomMAC() string {
	mac := make(net.HardwareAddr, 6)
	rand.Read(mac) // never fails
	mac[0] = mac[0]&^1 | 2
	return mac.String()
}
