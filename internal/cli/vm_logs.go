package cli

import (
	"context"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

type vmLogsOptions struct {
	ref, source string
	follow      bool
}

// logSources are the logs of a VM.
var logSources = []string{"console", "vmm", "network", "metrics"}

func newVMLogs(a *app) *cobra.Command {
	var o vmLogsOptions
	cmd := &cobra.Command{
		Use:   "logs NAME",
		Short: "Show what a VM's guest or its VMM has said",
		Long: `Show what the guest has written to its console since its last start, kernel and
init included. With --source it is another log: vmm is what the VMM itself has said,
network what the guest was refused, and metrics what Firecracker measures of itself,
a line of JSON each minute. On a terminal only text is shown: colours and other
control sequences are left out.`,
		Example:           "  banger vm logs sandbox\n  banger vm logs -f sandbox\n  banger vm logs --source vmm sandbox",
		Args:              exactly("the VM's name"),
		ValidArgsFunction: first(a.live(vmNames)),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.ref = args[0]
			return runVMLogs(cmd.Context(), a, o)
		},
	}
	cmd.Flags().BoolVarP(&o.follow, "follow", "f", false, "go on with what comes, until Ctrl-C")
	cmd.Flags().StringVar(&o.source, "source", "console", "`LOG` to show: console, vmm, network or metrics")
	completeFlag(cmd, "source", func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
		return logSources, cobra.ShellCompDirectiveNoFileComp
	})
	return cmd
}

func runVMLogs(ctx context.Context, a *app, o vmLogsOptions) error {
	if !slices.Contains(logSources, o.source) {
		return usagef("--source %q is not one of %s", o.source, strings.Join(logSources, ", "))
	}
	c, err := a.client(ctx)
	if err != nil {
		return err
	}
	return c.Logs(ctx, o.ref, o.source, o.follow, a.onScreen(a.env.Out))
}
