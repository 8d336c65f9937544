package cli

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"banger/internal/api"
	"banger/internal/hostenv"
	"banger/internal/progress"
)

func newVMStart(a *app) *cobra.Command {
	var request api.StartVM
	cmd := &cobra.Command{
		Use:               "start NAME...",
		Short:             "Start stopped VMs",
		Long:              "Start stopped VMs and wait until they answer. Several are started side by side,\nand one that fails does not stop the others.",
		Example:           "  banger vm start sandbox\n  banger vm start one two three",
		Args:              atLeastOne("the VM's name"),
		ValidArgsFunction: a.live(vmNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client(cmd.Context())
			if err != nil {
				return err
			}
			request.Environment = hostenv.Select(a.env.Getenv)
			return a.several(cmd.Context(), args, func(ctx context.Context, ref string, report progress.Func) (string, error) {
				vm, err := c.StartVM(ctx, ref, request, report)
				return vm.Name, err
			})
		},
	}
	vmmFlag(cmd, &request.VMM)
	return cmd
}

// timeoutFlag adds --timeout for a clean stop.
func timeoutFlag(cmd *cobra.Command, to *time.Duration) {
	cmd.Flags().DurationVar(to, "timeout", 0, "`TIME` to wait for a clean end before the VM is killed: 30s, 2m (default: bangerd's)")
	completeFlag(cmd, "timeout", cobra.NoFileCompletions)
}

func stopRequest(timeout time.Duration) (api.StopVM, error) {
	if timeout < 0 || (timeout > 0 && timeout < time.Second) {
		return api.StopVM{}, usagef("a timeout of %s is too short: 1s is the least", timeout)
	}
	return api.StopVM{TimeoutSeconds: int(timeout / time.Second)}, nil
}

func newVMStop(a *app) *cobra.Command {
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "stop NAME...",
		Short: "Stop VMs cleanly",
		Long: `Stop VMs cleanly: the guest writes everything to its disks and powers off. One
that does not get there in time is killed. Nothing that was written is lost, and
'banger vm start' carries on with it.`,
		Example:           "  banger vm stop sandbox\n  banger vm stop one two --timeout 2m",
		Args:              atLeastOne("the VM's name"),
		ValidArgsFunction: a.live(vmNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			request, err := stopRequest(timeout)
			if err != nil {
				return err
			}
			c, err := a.client(cmd.Context())
			if err != nil {
				return err
			}
			return a.several(cmd.Context(), args, func(ctx context.Context, ref string, report progress.Func) (string, error) {
				vm, err := c.StopVM(ctx, ref, request, report)
				return vm.Name, err
			})
		},
	}
	timeoutFlag(cmd, &timeout)
	return cmd
}

func newVMRestart(a *app) *cobra.Command {
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:               "restart NAME...",
		Short:             "Stop VMs cleanly and start them again",
		Long:              "Stop VMs cleanly and start them again. Sizes changed with 'banger vm set' apply.\nA VM that is stopped is started.",
		Example:           "  banger vm restart sandbox",
		Args:              atLeastOne("the VM's name"),
		ValidArgsFunction: a.live(vmNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			request, err := stopRequest(timeout)
			if err != nil {
				return err
			}
			c, err := a.client(cmd.Context())
			if err != nil {
				return err
			}
			return a.several(cmd.Context(), args, func(ctx context.Context, ref string, report progress.Func) (string, error) {
				vm, err := c.VM(ctx, ref)
				if err != nil {
					return "", err
				}
				if vm.State != api.StateStopped {
					if _, err := c.StopVM(ctx, vm.ID, request, report); err != nil {
						return "", err
					}
				}
				vm, err = c.StartVM(ctx, vm.ID, api.StartVM{Environment: hostenv.Select(a.env.Getenv)}, report)
				return vm.Name, err
			})
		},
	}
	timeoutFlag(cmd, &timeout)
	return cmd
}

func newVMKill(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "kill NAME...",
		Short: "End VMs at once",
		Long: `End VMs at once, as a power cut would: what the guest has not written to its
disks yet is lost. 'banger vm stop' loses nothing.`,
		Example:           "  banger vm kill sandbox",
		Args:              atLeastOne("the VM's name"),
		ValidArgsFunction: a.live(vmNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client(cmd.Context())
			if err != nil {
				return err
			}
			return a.several(cmd.Context(), args, func(ctx context.Context, ref string, _ progress.Func) (string, error) {
				vm, err := c.KillVM(ctx, ref)
				return vm.Name, err
			})
		},
	}
}

func newVMDelete(a *app) *cobra.Command {
	var request api.DeleteVM
	cmd := &cobra.Command{
		Use:               "delete NAME...",
		Aliases:           []string{"rm"},
		Short:             "Delete VMs and their disks",
		Long:              "Delete VMs and all that is on their disks. There is no way back. A VM that runs is\nrefused without --force.",
		Example:           "  banger vm delete sandbox\n  banger vm delete --force one two three",
		Args:              atLeastOne("the VM's name"),
		ValidArgsFunction: a.live(vmNames),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client(cmd.Context())
			if err != nil {
				return err
			}
			return a.several(cmd.Context(), args, func(ctx context.Context, ref string, _ progress.Func) (string, error) {
				vm, err := c.VM(ctx, ref)
				if err != nil {
					return "", err
				}
				return vm.Name, c.DeleteVM(ctx, vm.ID, request)
			})
		},
	}
	cmd.Flags().BoolVarP(&request.Force, "force", "f", false, "delete it even if it runs")
	return cmd
}
