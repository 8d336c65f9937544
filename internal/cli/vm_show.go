package cli

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"banger/internal/api"
	"banger/internal/confine"
	"banger/internal/size"
)

func newVMShow(a *app) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:               "show NAME",
		Short:             "Show all about a VM",
		Long:              "Show all that is known about a VM, and where its files are.",
		Example:           "  banger vm show sandbox\n  banger vm show sandbox --json | jq -r .address",
		Args:              exactly("the VM's name"),
		ValidArgsFunction: first(a.live(vmNames)),
		RunE:              func(cmd *cobra.Command, args []string) error { return runVMShow(cmd.Context(), a, args[0], asJSON) },
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}

func runVMShow(ctx context.Context, a *app, ref string, asJSON bool) error {
	c, err := a.client(ctx)
	if err != nil {
		return err
	}
	vm, err := c.VM(ctx, ref)
	if err != nil {
		return err
	}
	if asJSON {
		return a.writeJSON(vm)
	}
	now := time.Now()
	rows := [][]cell{
		{text("name"), text(vm.Name)},
		{text("id"), text(vm.ID)},
		{text("state"), stateCell(vm.State)},
		{text("image"), text(vm.Image)},
		{text("kernel"), text(vm.Kernel)},
		{text("vcpu"), number(vm.VCPU)},
		{text("memory"), text(memory(vm.MemoryMiB))},
		{text("disk"), text(fmt.Sprintf("%s (all files take %s on this host)", size.Format(vm.DiskBytes), size.Human(vm.DiskUsed)))},
		{text("address"), text(orDash(vm.Address))},
		{text("on this host"), text(orDash(cmp.Or(vm.OnHost, vm.Loopback)) + ", " + vm.Name + ".vm")},
		{text("mac"), text(orDash(vm.MAC))},
		{text("created"), text(fmt.Sprintf("%s (%s)", vm.Created.Local().Format(time.DateTime), since(vm.Created, now)))},
	}
	if vm.Ephemeral {
		rows = append(rows, []cell{text("ephemeral"), text("deleted when its command or session ends")})
	}
	if vm.Started != nil {
		rows = append(rows, []cell{text("started"), text(fmt.Sprintf("%s (%s)", vm.Started.Local().Format(time.DateTime), since(*vm.Started, now)))})
	}
	if vm.VMM != nil {
		rows = append(rows, []cell{text("vmm"), text(vmmLine(vm))})
		rows = append(rows, confinement(vm.VMM.Confinement)...)
	} else if vm.VMMChoice != "" {
		rows = append(rows, []cell{text("vmm"), text(vm.VMMChoice + ", at the next start")})
	}
	if vm.LastError != "" {
		rows = append(rows, []cell{text("last error"), {text: oneLine(vm.LastError), style: red}})
	}
	rows = append(rows, []cell{text("files"), text(vm.Dir)})
	return a.writeTable(nil, rows)
}

// confinement says by what a VMM is confined, and by what not.
func confinement(layers []confine.Layer) [][]cell {
	var on []string
	var off [][]cell
	for _, layer := range layers {
		if layer.On {
			on = append(on, layer.Name)
			continue
		}
		off = append(off, []cell{text("not confined"), {text: layer.Name + ": " + oneLine(layer.Detail), style: yellow}})
	}
	if on == nil {
		return off
	}
	return append([][]cell{{text("confined"), text(strings.Join(on, ", "))}}, off...)
}

// vmmLine says what a VM runs on, and why on that.
func vmmLine(vm api.VM) string {
	line := fmt.Sprintf("%s %s (%s), pid %d", vm.VMM.Driver, vm.VMM.Version, vm.VMM.Accelerator, vm.VMM.PID)
	if vm.VMMReason != "" {
		line += ": " + oneLine(vm.VMMReason)
	}
	return line
}
