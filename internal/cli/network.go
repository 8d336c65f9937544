package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"banger/internal/api"
	"banger/internal/config"
	"banger/internal/network/bridge"
	"banger/internal/network/resolved"
	"banger/internal/paths"
)

func newNetwork(a *app) *cobra.Command {
	return newGroup("network", "Put VMs on a bridge of this host", `Put VMs on a bridge of this host, instead of the network that they have without any
setup: packets then go through the kernel alone, and this host reaches guests by their
own addresses. It is set up once, by root; nothing of banger runs as root after that.
VMs use it from their next start on. What guests reach is the same, and so is where it
is configured: [network_access] in the user's config.toml.`, groupManage,
		newNetworkSetup(a), newNetworkStatus(a), newNetworkTeardown(a), newNetworkResolved(a))
}

type networkSetupOptions struct {
	user string
	taps int
	boot bool
}

func newNetworkSetup(a *app) *cobra.Command {
	var o networkSetupOptions
	cmd := &cobra.Command{
		Use:   "setup",
		Short: "Make the bridge, its TAP devices and firewall rules; needs root",
		Long: `Make the bridge banger0 with the address 172.16.0.1/24, a TAP device for each of the
first addresses that VMs have, and firewall rules of nftables: guests reach the
internet, and neither this host nor its networks nor each other, but for what
[network_access] in the user's config.toml opens. systemd repeats it at boot.

It changes nothing where 172.16.0.0/24 is in use already. To change something run it
again; to follow a changed config.toml, too. What was there before is left alone.`,
		Example: "  sudo banger network setup\n  sudo banger network setup --taps 100",
		Args:    noArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return runNetworkSetup(cmd.Context(), a, o) },
	}
	cmd.Flags().StringVar(&o.user, "user", "", "the `USER` whose VMs use it (default: who called sudo)")
	cmd.Flags().IntVar(&o.taps, "taps", bridge.DefaultTAPs, "make this `NUMBER` of TAP devices: so many VMs can be connected")
	cmd.Flags().BoolVar(&o.boot, "boot", false, "as it was set up before")
	if err := cmd.Flags().MarkHidden("boot"); err != nil {
		panic(err) // the flag is there
	}
	completeFlag(cmd, "user", cobra.NoFileCompletions)
	completeFlag(cmd, "taps", cobra.NoFileCompletions)
	return cmd
}

func runNetworkSetup(ctx context.Context, a *app, o networkSetupOptions) error {
	executable, err := needRoot("network setup")
	if err != nil {
		return err
	}
	warn := func(text string) { a.warn("%s", text) }
	if o.boot {
		return bridge.Restore(ctx, bridge.ThisHost(), warn)
	}
	owner, err := a.networkUser(o.user)
	if err != nil {
		return err
	}
	settings, err := a.configOf(owner)
	if err != nil {
		return err
	}
	uid, err := strconv.Atoi(owner.Uid)
	if err != nil {
		return fmt.Errorf("cannot understand the id of user %q: %w", owner.Username, err)
	}
	wanted := bridge.Settings{User: owner.Username, UID: uid, TAPs: o.taps, Policy: settings.Network, DNSPort: settings.DNSPort}
	if err := bridge.Setup(ctx, bridge.ThisHost(), wanted, executable, warn); err != nil {
		return err
	}
	a.note("the bridge %s is there for VMs of %s, which use it from their next start on; guests reach %s", bridge.Name, owner.Username, settings.Network)
	return nil
}

// needRoot says how to become it.
func needRoot(command string) (executable string, err error) {
	executable, err = os.Executable()
	if err == nil {
		executable, err = filepath.EvalSymlinks(executable)
	}
	if err != nil {
		return "", fmt.Errorf("cannot find out where this program is: %w", err)
	}
	if os.Geteuid() != 0 {
		// sudo does not look where `make install` puts it by default.
		return "", &api.Error{Kind: api.KindState, Message: fmt.Sprintf("cannot run banger %s: it needs root", command), Hint: fmt.Sprintf("sudo %s %s", executable, command)}
	}
	return executable, nil
}

// networkUser is whose VMs use the bridge: the one that is named, else who
// called sudo, else who runs this.
func (a *app) networkUser(name string) (*user.User, error) {
	if name == "" {
		name = a.env.Getenv("SUDO_USER")
	}
	if name == "" {
		current, err := user.Current()
		if err != nil {
			return nil, fmt.Errorf("cannot find out who you are: %w", err)
		}
		return current, nil
	}
	found, err := user.Lookup(name)
	if errors.As(err, new(user.UnknownUserError)) {
		if byID, idErr := user.LookupId(name); idErr == nil {
			return byID, nil
		}
		return nil, usagef("there is no user %q", name)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot look up the user %q: %w", name, err)
	}
	return found, nil
}

// configOf reads a user's configuration, where it is by default if that is not
// the user who runs this.
func (a *app) configOf(owner *user.User) (config.Config, error) {
	if owner.Uid == strconv.Itoa(os.Getuid()) {
		return a.config()
	}
	dirs, err := paths.New(func(name string) string {
		if name == "HOME" {
			return owner.HomeDir
		}
		return ""
	})
	if err != nil {
		return config.Config{}, err
	}
	uid, err := strconv.Atoi(owner.Uid)
	if err != nil {
		return config.Config{}, fmt.Errorf("cannot understand the id of user %q: %w", owner.Username, err)
	}
	return config.LoadOf(dirs, uid)
}

func newNetworkResolved(a *app) *cobra.Command {
	var install, uninstall bool
	var name string
	cmd := &cobra.Command{
		Use:   "resolved",
		Short: "Have systemd-resolved know NAME.vm; needs root",
		Long: `Have systemd-resolved ask bangerd about NAME.vm, for VMs that are not on the bridge:
--install writes /etc/systemd/resolved.conf.d/banger.conf and restarts it, --uninstall
takes that back. Without a flag the file is only written out, for those who keep it by
hand. The bridge needs none of this.`,
		Example: "  sudo banger network resolved --install\n  sudo banger network resolved --uninstall",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runNetworkResolved(cmd.Context(), a, name, install, uninstall)
		},
	}
	cmd.Flags().BoolVar(&install, "install", false, "write the file and restart systemd-resolved")
	cmd.Flags().BoolVar(&uninstall, "uninstall", false, "take it back")
	cmd.Flags().StringVar(&name, "user", "", "the `USER` whose VMs have names (default: who called sudo)")
	completeFlag(cmd, "user", cobra.NoFileCompletions)
	return cmd
}

func runNetworkResolved(ctx context.Context, a *app, name string, install, uninstall bool) error {
	if install && uninstall {
		return usagef("--install and --uninstall exclude each other")
	}
	if install || uninstall {
		if _, err := needRoot("network resolved"); err != nil {
			return err
		}
	}
	if uninstall {
		changed, err := resolved.Uninstall(ctx)
		if err == nil && !changed {
			a.note("there is no %s", resolved.DropIn)
		}
		return err
	}
	owner, err := a.networkUser(name)
	if err != nil {
		return err
	}
	settings, err := a.configOf(owner)
	if err != nil {
		return err
	}
	if settings.DNSPort == 0 {
		return &api.Error{Kind: api.KindState, Message: "cannot have NAME.vm known: bangerd does not answer for it", Hint: "remove dns_port from the configuration"}
	}
	if !install {
		if _, err := fmt.Fprint(a.env.Out, resolved.Text(settings.DNSPort)); err != nil {
			return fmt.Errorf("cannot write: %w", err)
		}
		return nil
	}
	changed, err := resolved.Install(ctx, settings.DNSPort)
	if err == nil && !changed {
		a.note("%s is as it should be already", resolved.DropIn)
	}
	return err
}

func newNetworkStatus(a *app) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Say whether there is a bridge for VMs",
		Long: `Say whether there is a bridge for VMs, for whom, and what is wrong with it. Only root
can see the firewall. The exit status is 0 if it works and 1 if not.`,
		Example: "  banger network status\n  sudo banger network status --json",
		Args:    noArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return runNetworkStatus(cmd.Context(), a, asJSON) },
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}

func runNetworkStatus(ctx context.Context, a *app, asJSON bool) error {
	status, err := bridge.Look(ctx, bridge.ThisHost())
	if err != nil {
		return err
	}
	if asJSON {
		err = a.writeJSON(status)
	} else {
		err = a.writeTable(nil, networkRows(status))
	}
	if err == nil && (!status.SetUp || len(status.Problems) > 0) {
		return &exitError{exitFailure}
	}
	return err
}

func networkRows(status bridge.Status) [][]cell {
	if !status.SetUp {
		return [][]cell{{text("bridge"), {text: "not set up", style: yellow}}}
	}
	boot := "no: set it up again after a boot"
	if status.Boot {
		boot = "systemd sets it up again"
	}
	rows := [][]cell{
		{text("bridge"), text(status.Bridge + ", " + status.Address)},
		{text("user"), text(status.User)},
		{text("guests reach"), text(status.Policy.String())},
		{text("TAP devices"), text(fmt.Sprintf("%d, in use: %s", status.TAPs, orDash(strings.Join(status.InUse, ", "))))},
		{text("at boot"), text(boot)},
	}
	for _, problem := range status.Problems {
		rows = append(rows, []cell{text("problem"), {text: problem, style: red}})
	}
	return rows
}

func newNetworkTeardown(a *app) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:     "teardown",
		Short:   "Remove what setup made; needs root",
		Long:    "Remove what setup made, and nothing else, however far it got. With VMs on the bridge\nit refuses. It is no error if there is nothing to remove.",
		Example: "  sudo banger network teardown",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if _, err := needRoot("network teardown"); err != nil {
				return err
			}
			done, err := bridge.Teardown(cmd.Context(), bridge.ThisHost(), force, func(text string) { a.warn("%s", text) })
			if err != nil {
				return err
			}
			if !done {
				a.note("there is nothing to take down")
				return nil
			}
			a.note("the bridge is gone, with all that was set up for it")
			return nil
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "although VMs use it: they have no network until their next start")
	return cmd
}
