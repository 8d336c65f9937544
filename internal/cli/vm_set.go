package cli

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"banger/internal/api"
	"banger/internal/size"
)

func newVMSet(a *app) *cobra.Command {
	var sizes sizing
	var on string
	cmd := &cobra.Command{
		Use:               "set NAME",
		Short:             "Change a VM's sizes, or what it runs on",
		Long:              "Change a VM's CPUs, memory or work disk, or the VMM that it runs on. It applies\nwhen the VM is started the next time. A disk can only grow.",
		Example:           "  banger vm set sandbox --memory 4G\n  banger vm set sandbox --vcpu 4 --disk-size 40G && banger vm restart sandbox\n  banger vm set sandbox --vmm qemu",
		Args:              exactly("the VM's name"),
		ValidArgsFunction: first(a.live(vmNames)),
		RunE: func(cmd *cobra.Command, args []string) error {
			wanted := sizes.request()
			set := api.SetVM{VCPU: wanted.VCPU, MemoryMiB: wanted.MemoryMiB, DiskBytes: wanted.DiskBytes, VMM: on}
			if set == (api.SetVM{}) {
				return usagef("there is nothing to change: give --vcpu, --memory, --disk-size or --vmm")
			}
			return runVMSet(cmd.Context(), a, args[0], set)
		},
	}
	sizes.addTo(cmd)
	vmmFlag(cmd, &on)
	return cmd
}

func runVMSet(ctx context.Context, a *app, ref string, set api.SetVM) error {
	c, err := a.client(ctx)
	if err != nil {
		return err
	}
	vm, err := c.SetVM(ctx, ref, set)
	if err != nil {
		return err
	}
	if vm.State != api.StateStopped {
		a.note("it applies when the VM is started the next time: banger vm restart %s", vm.Name)
	}
	line := fmt.Sprintf("%s: %d vCPU, %s RAM, %s disk", vm.Name, vm.VCPU, memory(vm.MemoryMiB), size.Format(vm.DiskBytes))
	if vm.VMMChoice != "" {
		line += ", on " + vm.VMMChoice
	}
	return a.writeLines(line)
}
