package cli

import (
	"time"

	"github.com/spf13/cobra"

	"banger/internal/api"
	"banger/internal/size"
)

func newVM(a *app) *cobra.Command {
	return newGroup("vm", "Run and manage VMs", `Run and manage VMs. A VM is named by its name, its id, or the beginning of its
id where no other begins so.`, groupMain,
		newVMRun(a), newVMCreate(a), newVMList(a), newVMShow(a), newVMStart(a), newVMStop(a), newVMRestart(a), newVMKill(a),
		newVMDelete(a), newVMSet(a), newVMSSH(a), newVMExec(a), newVMCopy(a), newVMLogs(a), newVMPorts(a), newVMStats(a), newVMPrune(a), newVMCommit(a), newVMWorkspace(a))
}

// stateCell colours a state; its word alone says everything.
func stateCell(state api.State) cell {
	styles := map[api.State]style{
		api.StateRunning:  green,
		api.StateStarting: yellow,
		api.StateStopping: yellow,
		api.StateDeleting: red,
		api.StateStopped:  dim,
	}
	return cell{text: string(state), style: styles[state]}
}

// memory writes MiB in the largest unit.
func memory(mib int) string { return size.Format(int64(mib) * size.MiB) }

// uptime of a VM's VMM.
func uptime(vm api.VM, now time.Time) string {
	if vm.Started == nil {
		return "-"
	}
	return span(now.Sub(*vm.Started))
}
