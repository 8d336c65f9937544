package cli

import (
	"context"
	"strings"

	"github.com/spf13/cobra"
)

type vmExecOptions struct {
	ref     string
	command guestCommand
}

func newVMExec(a *app) *cobra.Command {
	var o vmExecOptions
	var input, tty bool
	cmd := &cobra.Command{
		DisableFlagsInUseLine: true,
		Use:                   "exec [FLAGS] NAME -- COMMAND [ARG]...",
		Short:                 "Run a command in a running VM",
		Long: `Run a command in a running VM as root, in /root. Its exit status is banger's, 128+n
if signal n ended it. stdout and stderr stay apart, stdin is passed on, and signals
that banger gets go to the command; a guest that does not answer then is left after
10 seconds, or at a second signal. No shell is between: use 'sh -c' for one.

The command gets a terminal if stdin and stdout are terminals here; -t and -i
decide otherwise.`,
		Example: `  banger vm exec sandbox -- uname -a
  banger vm exec sandbox -- sh -c 'cd /tmp && ls | wc -l'
  banger vm exec sandbox -- bash
  tar c . | banger vm exec sandbox -- tar x -C /srv
  banger vm exec -e DEBUG=1 --dir /srv sandbox -- ./run`,
		Args: func(cmd *cobra.Command, args []string) error {
			if err := nameAndCommand(cmd, args); err != nil {
				return err
			}
			if len(withoutDash(args[1:])) == 0 {
				return usagef("the command to run is missing: banger vm exec %s -- COMMAND", args[0])
			}
			return notEmpty(withoutDash(args[1:])[:1])
		},
		ValidArgsFunction: first(a.live(vmNames)),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.ref, o.command.args = args[0], withoutDash(args[1:])
			o.command.tty = a.wantsTTY()
			if cmd.Flags().Changed("tty") {
				o.command.tty = tty
			}
			o.command.noInput = !input
			return runVMExec(cmd.Context(), a, o)
		},
	}
	flags := cmd.Flags()
	flags.SetInterspersed(false)
	flags.BoolVarP(&input, "interactive", "i", true, "pass stdin on; --interactive=false gives an empty one")
	flags.BoolVarP(&tty, "tty", "t", false, "run it on a terminal; --tty=false never does (default: if there is one)")
	flags.StringArrayVarP(&o.command.env, "env", "e", nil, "set a variable for the command: `KEY=VALUE`; may be repeated")
	flags.StringVarP(&o.command.dir, "dir", "w", "", "`DIRECTORY` to run it in (default /root)")
	completeFlag(cmd, "env", cobra.NoFileCompletions)
	completeFlag(cmd, "dir", cobra.NoFileCompletions)
	return cmd
}

func runVMExec(ctx context.Context, a *app, o vmExecOptions) error {
	for _, variable := range o.command.env {
		if name, _, ok := strings.Cut(variable, "="); !ok || name == "" {
			return usagef("--env %q is not of the form KEY=value", variable)
		}
	}
	c, err := a.client(ctx)
	if err != nil {
		return err
	}
	return a.runInGuest(ctx, c, o.ref, guestOf(c, o.ref), o.command)
}
