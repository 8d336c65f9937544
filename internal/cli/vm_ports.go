package cli

import (
	"context"
	"strconv"

	"github.com/spf13/cobra"
)

func newVMPorts(a *app) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "ports NAME",
		Short: "List the TCP ports a guest listens on",
		Long: `List the TCP ports that programs in the guest listen on, which ones those are,
and where to find them on this host. Each VM has a loopback address of its own,
on which its ports appear by themselves; NAME.vm is that address where .vm is
part of this host's DNS. A port that you may not have here, or that is taken, is
served on another one.`,
		Example:           "  banger vm ports sandbox\n  banger vm ports sandbox --json | jq -r '.[].url'",
		Args:              exactly("the VM's name"),
		ValidArgsFunction: first(a.live(vmNames)),
		RunE:              func(cmd *cobra.Command, args []string) error { return runVMPorts(cmd.Context(), a, args[0], asJSON) },
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}

func runVMPorts(ctx context.Context, a *app, ref string, asJSON bool) error {
	c, err := a.client(ctx)
	if err != nil {
		return err
	}
	ports, err := c.Ports(ctx, ref)
	if err != nil {
		return err
	}
	if asJSON {
		return a.writeJSON(list(ports))
	}
	rows := make([][]cell, 0, len(ports))
	for _, port := range ports {
		pid, at := "-", orDash(port.Host)
		if port.PID != 0 {
			pid = strconv.Itoa(port.PID)
		}
		if port.URL != "" {
			at = port.URL
		}
		if port.Elsewhere != "" {
			at += " (" + oneLine(port.Elsewhere) + ")"
		}
		if port.Error != "" {
			at = "not served: " + oneLine(port.Error)
		}
		rows = append(rows, []cell{number(port.Port.Port), text(port.Address), text(orDash(port.Process)), text(pid), text(at)})
	}
	return a.writeTable([]string{"PORT", "ADDRESS", "PROCESS", "PID", "ON THIS HOST"}, rows)
}
