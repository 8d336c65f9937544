package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"banger/internal/api"
	"banger/internal/size"
)

func newVMStats(a *app) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "stats [NAME...]",
		Short: "Show what running VMs use",
		Long: `Show what running VMs use at this moment: all of them, or those named. HOST MEM is
what the VMM takes of this host's memory, CPU TIME what it has used of its CPUs
since the start; the rest is the guest's own view.`,
		Example:           "  banger vm stats\n  banger vm stats sandbox --json",
		Args:              func(_ *cobra.Command, args []string) error { return notEmpty(args) },
		ValidArgsFunction: a.live(vmNames),
		RunE:              func(cmd *cobra.Command, args []string) error { return runVMStats(cmd.Context(), a, args, asJSON) },
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}

func runVMStats(ctx context.Context, a *app, refs []string, asJSON bool) error {
	c, err := a.client(ctx)
	if err != nil {
		return err
	}
	named := len(refs) > 0
	if !named {
		vms, err := c.VMs(ctx)
		if err != nil {
			return err
		}
		for _, vm := range vms {
			if vm.State == api.StateRunning {
				refs = append(refs, vm.ID)
			}
		}
	}
	all := []api.Stats{}
	for _, ref := range unique(refs) {
		stats, err := c.Stats(ctx, ref)
		if err != nil {
			if named {
				return err
			}
			// It may have stopped since.
			a.warn("%v", err)
			continue
		}
		all = append(all, stats)
	}
	if asJSON {
		return a.writeJSON(all)
	}
	rows := make([][]cell, 0, len(all))
	for _, s := range all {
		root := "-"
		for _, disk := range s.Guest.Disks {
			if disk.Mount == "/root" {
				root = fmt.Sprintf("%s of %s", size.Human(int64(disk.Used)), size.Human(int64(disk.Total)))
			}
		}
		rows = append(rows, []cell{
			text(s.VM),
			text(span(time.Duration(s.Guest.Uptime * float64(time.Second)))),
			text(fmt.Sprintf("%.2f", s.Guest.Load[0])),
			number(s.Guest.Processes),
			text(fmt.Sprintf("%s of %s", size.Human(int64(s.Guest.MemoryUsed)), size.Human(int64(s.Guest.MemoryTotal)))),
			text(root),
			text(size.Human(s.HostMemory)),
			text(fmt.Sprintf("%.1fs", s.HostCPUSecond)),
		})
	}
	return a.writeTable([]string{"NAME", "UP", "LOAD", "PROCESSES", "MEMORY", "/ROOT", "HOST MEM", "CPU TIME"}, rows)
}
