package cli

import (
	"context"
	"strconv"

	"github.com/spf13/cobra"
)

func newVMPorts(a *app) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:               "ports NAME",
		Short:             "List the TCP ports a guest listens on",
		Long:              "List the TCP ports that programs in the guest listen on, and which ones those are.",
		Example:           "  banger vm ports sandbox\n  banger vm ports sandbox --json | jq '.[].port'",
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
		pid := "-"
		if port.PID != 0 {
			pid = strconv.Itoa(port.PID)
		}
		rows = append(rows, []cell{number(port.Port), text(port.Address), text(orDash(port.Process)), text(pid)})
	}
	return a.writeTable([]string{"PORT", "ADDRESS", "PROCESS", "PID"}, rows)
}
