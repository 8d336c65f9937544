package cli

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"banger/internal/api"
	"banger/internal/client"
	"banger/internal/confine"
	"banger/internal/size"
)

func newVMShow(a *app) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:               "show NAME",
		Short:             "Show all about a VM",
		Long:              "Show all that is known about a VM: its sizes, its network, its workspaces with the\nstate of their tools' installation, and where its files are.",
		Example:           "  banger vm show sandbox\n  banger vm show sandbox --json | jq -r .address",
		Args:              exactly("the VM's name"),
		ValidArgsFunction: first(a.live(vmNames)),
		RunE:              func(cmd *cobra.Command, args []string) error { return runVMShow(cmd.Context(), a, args[0], asJSON) },
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}

// shownVM is a VM with what only the CLI knows.
type shownVM struct {
	api.VM
	Workspaces []shownWorkspace `json:"workspaces,omitempty"`
}

type shownWorkspace struct {
	Name  string `json:"name"`
	Root  string `json:"root"` // on this host
	Guest string `json:"guest"`
	// Tooling is how far the installation of the repository's tools is:
	// "running", "done" or "failed"; "unknown" if the guest does not say, and
	// empty if it is stopped, or if there are none to install. The log is in
	// the guest.
	Tooling    string `json:"tooling,omitempty"`
	ToolingLog string `json:"tooling_log,omitempty"`
}

// lookTimeout bounds the questions to a guest of which only little is wanted.
const lookTimeout = 5 * time.Second

// workspaces are those of a VM, in the order of their names.
func (a *app) workspaces(ctx context.Context, c *client.Client, vm api.VM) ([]shownWorkspace, error) {
	found, err := records(vm)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	guest := guestOf(c, vm.ID)
	var shown []shownWorkspace
	for _, name := range slices.Sorted(maps.Keys(found)) {
		w := shownWorkspace{Name: name, Root: found[name].Root, Guest: found[name].Guest}
		if vm.State == api.StateRunning {
			tools := newTooling(w.Guest)
			if w.Tooling, err = tools.look(ctx, guest); err != nil {
				w.Tooling = "unknown"
			}
			if w.Tooling != "" {
				w.ToolingLog = tools.log
			}
		}
		shown = append(shown, w)
	}
	return shown, nil
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
	workspaces, err := a.workspaces(ctx, c, vm)
	if err != nil {
		return err
	}
	if asJSON {
		return a.writeJSON(shownVM{VM: vm, Workspaces: workspaces})
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
	if vm.NetworkAccess != "" {
		rows = append(rows, []cell{text("network"), text("reaches " + vm.NetworkAccess)})
	}
	for _, w := range workspaces {
		about := fmt.Sprintf("%s, from %s", w.Guest, w.Root)
		if w.Tooling != "" {
			about += fmt.Sprintf("; tools: %s (log: %s in the guest)", w.Tooling, w.ToolingLog)
		}
		rows = append(rows, []cell{text("workspace"), text(oneLine(about))})
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
