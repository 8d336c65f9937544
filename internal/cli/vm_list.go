package cli

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"banger/internal/size"
)

type vmListOptions struct {
	json  bool
	names bool
}

func newVMList(a *app) *cobra.Command {
	var o vmListOptions
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List VMs",
		Long:    "List all VMs, running or not. DISK is the size of the work disk, USED what the\nVM's files take on this host.",
		Example: `  banger vm list
  banger vm list --json | jq -r '.[] | select(.state == "running") | .name'

  # stop every VM
  banger vm list --quiet | xargs -r banger vm stop`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runVMList(cmd.Context(), a, o) },
	}
	jsonFlag(cmd, &o.json)
	cmd.Flags().BoolVarP(&o.names, "quiet", "q", false, "write names only")
	return cmd
}

func runVMList(ctx context.Context, a *app, o vmListOptions) error {
	c, err := a.client(ctx)
	if err != nil {
		return err
	}
	vms, err := c.VMs(ctx)
	if err != nil {
		return err
	}
	if o.json {
		return a.writeJSON(list(vms))
	}
	if o.names {
		for _, vm := range vms {
			if err := a.writeLines(vm.Name); err != nil {
				return err
			}
		}
		return nil
	}
	now := time.Now()
	rows := make([][]cell, 0, len(vms))
	for _, vm := range vms {
		rows = append(rows, []cell{
			text(vm.Name),
			{text: vm.ID, style: dim},
			stateCell(vm.State), text(uptime(vm, now)), text(vm.Image),
			number(vm.VCPU), text(memory(vm.MemoryMiB)), text(size.Format(vm.DiskBytes)), text(size.Human(vm.DiskUsed)), text(orDash(vm.Address)),
		})
	}
	return a.writeTable([]string{"NAME", "ID", "STATE", "UP", "IMAGE", "VCPU", "MEMORY", "DISK", "USED", "ADDRESS"}, rows)
}
