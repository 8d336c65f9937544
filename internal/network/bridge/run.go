package bridge

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"

	"banger/internal/api"
	"banger/internal/atomicfile"
	"banger/internal/network/plan"
	"banger/internal/network/program"
)

// hasTables says whether there are tables of our name: all, or at least one.
func hasTables(ctx context.Context) (all, some bool, err error) {
	out, err := program.Run(ctx, "", "nft", "list", "tables")
	if err != nil {
		return false, false, fmt.Errorf("cannot list the firewall's tables: %w", err)
	}
	all = true
	for _, family := range families {
		has := slices.Contains(strings.Split(out, "\n"), "table "+family+" "+table)
		all, some = all && has, some || has
	}
	return all, some, nil
}

func loadRules(ctx context.Context, rules string) error {
	if _, err := program.Run(ctx, rules, "nft", "-f", "-"); err != nil {
		return fmt.Errorf("cannot load the firewall rules: %w", err)
	}
	return nil
}

func deleteTables(ctx context.Context) error {
	var script strings.Builder
	for _, family := range families {
		fmt.Fprintf(&script, "add table %[1]s %[2]s\ndelete table %[1]s %[2]s\n", family, table)
	}
	if _, err := program.Run(ctx, script.String(), "nft", "-f", "-"); err != nil {
		return fmt.Errorf("cannot remove the firewall rules: %w", err)
	}
	return nil
}

// chain is one of the firewall's.
type chain struct {
	Family, Table, Name, Hook, Type, Policy string
}

func (c chain) String() string { return fmt.Sprintf("%s %s %s", c.Family, c.Table, c.Name) }

// foreignChains are those of others that IPv4 packets go through.
func foreignChains(ctx context.Context) ([]chain, error) {
	out, err := program.Run(ctx, "", "nft", "-j", "list", "chains")
	if err != nil {
		return nil, fmt.Errorf("cannot list the firewall's chains: %w", err)
	}
	var list struct {
		Nftables []struct {
			Chain chain `json:"chain"`
		} `json:"nftables"`
	}
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		return nil, fmt.Errorf("cannot understand the firewall's chains: %w", err)
	}
	var chains []chain
	for _, entry := range list.Nftables {
		// The table "ip banger" would be somebody else's.
		if c := entry.Chain; c.Family == "ip" || c.Family == "inet" && c.Table != table {
			chains = append(chains, c)
		}
	}
	return chains, nil
}

// blocker names a chain of somebody else's that drops what is forwarded if
// nothing in it says otherwise, as Docker's does. An accept of ours does not
// count there.
func blocker(ctx context.Context) (string, error) {
	chains, err := foreignChains(ctx)
	for _, c := range chains {
		if c.Hook == "forward" && c.Policy == "drop" {
			return c.String(), nil
		}
	}
	return "", err
}

// forwarder names something of somebody else's that looks as if it needed the
// host to forward packets.
func forwarder(ctx context.Context) (string, error) {
	chains, err := foreignChains(ctx)
	if err != nil {
		return "", err
	}
	for _, c := range chains {
		if c.Hook == "forward" || c.Hook != "" && c.Type == "nat" {
			return fmt.Sprintf("the firewall's chain %q", c), nil
		}
	}
	links, err := netlink.LinkList()
	if err != nil {
		return "", fmt.Errorf("cannot list the links: %w", err)
	}
	for _, link := range links {
		if link.Type() != "bridge" || link.Attrs().Name == Name {
			continue
		}
		addrs, err := netlink.AddrList(link, netlink.FAMILY_V4)
		if err != nil {
			return "", fmt.Errorf("cannot list the addresses of %s: %w", link.Attrs().Name, err)
		}
		if len(addrs) > 0 {
			return "the bridge " + link.Attrs().Name, nil
		}
	}
	return "", nil
}

// stopForwarding puts the kernel's setting back, which others may have come to
// rely on: it was on when they started, so that they did not turn it on.
func stopForwarding(ctx context.Context, warn func(string)) error {
	what, err := forwarder(ctx)
	if err != nil {
		what = "something (" + err.Error() + ")"
	}
	if what != "" {
		warn("the host still forwards packets, which it did not before the setup: " + what + " may need it; if nothing does: sysctl net.ipv4.ip_forward=0")
		return nil
	}
	if err := writeSetting(forwardingPath, "0"); err != nil {
		return fmt.Errorf("cannot put the host's setting for forwarding back: %w", err)
	}
	return nil
}

// wireNames has systemd-resolved ask bangerd about NAME.vm, by way of the
// bridge's link: that goes with the link. It works while a VM is on the bridge,
// since resolved ignores a link without a carrier.
func (h Host) wireNames(ctx context.Context, port int) error {
	if _, err := os.Stat(h.Resolved); err != nil {
		return nil
	}
	if port == 0 {
		_, err := program.Run(ctx, "", "resolvectl", "revert", Name)
		return err
	}
	for _, args := range [][]string{
		{"dns", Name, fmt.Sprint("127.0.0.1:", port)},
		{"domain", Name, "~vm"},
		{"default-route", Name, "no"},
	} {
		if _, err := program.Run(ctx, "", "resolvectl", args...); err != nil {
			return err
		}
	}
	return nil
}

const unitName = "banger-network.service"

// Reloaded with nftables, whose own service begins with an empty ruleset.
const unitText = `# Made by banger network setup; banger network teardown removes it.
[Unit]
Description=Network of banger's VMs
After=network-online.target nftables.service systemd-resolved.service
Wants=network-online.target
PartOf=nftables.service
ReloadPropagatedFrom=nftables.service

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart="%[1]s" network setup --boot
ExecReload="%[1]s" network setup --boot
NoNewPrivileges=yes

[Install]
WantedBy=multi-user.target
`

// unitOf is the unit that runs a program. systemd gives % and $ a meaning.
func unitOf(path string) []byte {
	return fmt.Appendf(nil, unitText, strings.NewReplacer("%", "%%", "$", "$$", `"`, `\"`, `\`, `\\`).Replace(path))
}

// runsAsItIs says whether systemd may run this program where it is: it is the
// one that runs now, and nobody but root can change it.
func (h Host) runsAsItIs(executable string) bool {
	self, err := os.Stat(h.Self)
	if err != nil || !h.only(executable) {
		return false
	}
	info, err := os.Stat(executable)
	return err == nil && os.SameFile(self, info)
}

func (h Host) only(path string) bool {
	if h.onlyRoots != nil {
		return h.onlyRoots(path)
	}
	return program.OnlyRoots(path)
}

// checkCopy fails where [Host.installUnit] would have to put a copy and must
// not. old is what was set up before, or nil.
func (h Host) checkCopy(old *record, executable string) error {
	if h.runsAsItIs(executable) {
		return nil
	}
	if _, err := os.Lstat(h.Program); err == nil && (old == nil || old.Program != h.Program) {
		return foreign("file " + h.Program)
	}
	if dir := filepath.Dir(h.Program); !h.only(dir) {
		return &api.Error{
			Kind:    api.KindState,
			Message: fmt.Sprintf("cannot have systemd repeat the setup at boot: others than root can write to %q, where its program goes", dir),
			Hint:    "make that directory, and those above it, writable for root alone",
		}
	}
	return nil
}

// installUnit has systemd repeat the setup at boot, with a program that only
// root can change: the user's own would be a way to become root.
func (h Host) installUnit(ctx context.Context, r *record, executable string) error {
	path := executable
	if !h.runsAsItIs(executable) {
		path = h.Program
		r.Program = path
	}
	r.Unit = true
	if err := h.save(r); err != nil {
		return err
	}
	if path != executable {
		if err := copyProgram(h.Self, path); err != nil {
			return err
		}
		if !h.only(path) {
			return fmt.Errorf("cannot have systemd repeat it at boot: others than root can change %q", path)
		}
	}
	if err := os.WriteFile(filepath.Join(h.Units, unitName), unitOf(path), 0o644); err != nil {
		return fmt.Errorf("cannot write the unit for systemd: %w", err)
	}
	for _, args := range [][]string{{"daemon-reload"}, {"enable", "--quiet", unitName}} {
		if _, err := program.Run(ctx, "", "systemctl", args...); err != nil {
			return fmt.Errorf("cannot have systemd repeat it at boot: %w", err)
		}
	}
	return nil
}

func (h Host) removeUnit(ctx context.Context, r *record) error {
	if r.Program != "" {
		left, err := filepath.Glob(temporaries(r.Program))
		if err != nil {
			return err
		}
		for _, path := range append(left, r.Program) {
			if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
				return fmt.Errorf("cannot remove the program for systemd: %w", err)
			}
		}
	}
	path := filepath.Join(h.Units, unitName)
	if _, err := os.Lstat(path); !r.Unit || errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if _, err := os.Stat(h.Systemd); err == nil {
		if _, err := program.Run(ctx, "", "systemctl", "disable", "--now", "--quiet", unitName); err != nil {
			return fmt.Errorf("cannot remove the unit from systemd: %w", err)
		}
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("cannot remove the unit from systemd: %w", err)
	}
	if _, err := os.Stat(h.Systemd); err != nil {
		return nil
	}
	if _, err := program.Run(ctx, "", "systemctl", "daemon-reload"); err != nil {
		return fmt.Errorf("cannot remove the unit from systemd: %w", err)
	}
	return nil
}

// copyProgram copies the program that runs: from is [Host.Self], which stays
// that whatever has come to be at the path that it was started by.
func copyProgram(from, to string) error {
	data, err := os.ReadFile(from)
	if err == nil {
		err = atomicfile.Write(to, data, 0o755)
	}
	if err != nil {
		return fmt.Errorf("cannot copy the program for systemd: %w", err)
	}
	return nil
}

// foreign says that something of our name is somebody else's.
func foreign(what string) error {
	return &api.Error{
		Kind:    api.KindState,
		Message: fmt.Sprintf("cannot set up the network: there is a %s that banger did not make", what),
		Hint:    "rename or remove it; banger changes nothing that it has not made",
	}
}

func collides(kind string, with fmt.Stringer, link string) error {
	if link != "" {
		link = " on " + link
	}
	return &api.Error{
		Kind:    api.KindState,
		Message: fmt.Sprintf("cannot set up the network: %v, which VMs have their addresses in, collides with the %s %v%s", plan.Network, kind, with, link),
		Hint:    "nothing was changed; without the bridge VMs use the network of the user mode, which does not mind",
	}
}
