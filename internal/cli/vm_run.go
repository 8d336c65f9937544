package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"banger/internal/api"
	"banger/internal/client"
	"banger/internal/config"
)

// deleteTimeout bounds the deletion of an ephemeral VM at the end. bangerd
// deletes it anyway once nobody holds it.
const deleteTimeout = time.Minute

type vmRunOptions struct {
	request api.CreateVM
	spec    config.Spec
	detach  bool
	// command is empty for a session.
	command []string
	// workspace is the path of a repository, "" for none.
	workspace string
	shipping  workspaceFlags
}

func newVMRun(a *app) *cobra.Command {
	var o vmRunOptions
	var flags newVMFlags
	cmd := &cobra.Command{
		DisableFlagsInUseLine: true,
		Use:                   "run [FLAGS] [PATH] [-- COMMAND [ARG]...]",
		Short:                 "Run a session or a command in a fresh VM",
		Long: `Create a VM, start it, and open an ssh session in it; or run a command there and
exit with its status, 128+n if signal n ended it. The command runs as root in /root
without a shell between, once the guest's services are up. Its stdout and stderr
stay apart, stdin is passed on, it gets a terminal if stdin and stdout are
terminals here, and signals reach it.

With the PATH of a git repository, or of a directory in one, its tracked files are
put at /root/REPOSITORY as they are in the working tree, uncommitted changes
included, and session and command start there. git works on them: there is a
history of limited depth, the origin, and your name and address. Untracked files
stay here unless asked for, ignored ones always. If the repository has a mise.toml,
.mise.toml or .tool-versions, its tools are installed: in the background of a
session, before a command. 'banger vm workspace export' brings changes back.

The image and the kernel are fetched if they are missing. The VM runs on
afterwards; with --rm it is deleted at the end, whatever happens - unless the guest
never came up: then it is kept, so that 'banger vm logs' can say why.

Sizes that are not given come from [vm_defaults] of the configuration, else from
this host: a quarter of its CPUs (at most 4), an eighth of its memory (at most 8G),
and a work disk of 8G, which is /root in the guest.`,
		Example: `  # a sandbox with a shell in it
  banger vm run

  # a command in a VM that is gone afterwards
  banger vm run --rm -- uname -a
  banger vm run --rm --vcpu 2 --memory 4G -- sh -c 'docker info && df -h /root'

  # the tests of this repository
  banger vm run . -- make test

  # a session in a repository, on a branch of its own
  banger vm run ./repo --branch try-it

  # a VM to come back to
  banger vm run -d --name sandbox
  banger vm ssh sandbox`,
		Args: func(cmd *cobra.Command, args []string) error {
			before := len(args)
			if dash := cmd.ArgsLenAtDash(); dash >= 0 {
				before = dash
				if dash == len(args) {
					return usagef("the command after -- is missing")
				}
				if err := notEmpty(args[dash : dash+1]); err != nil {
					return err
				}
			}
			if before > 1 {
				return &usageError{
					message: "there is more than one argument before --: " + strings.Join(args[:before], " "),
					hint:    "a command goes after --: banger vm run -- " + strings.Join(args[:before], " "),
				}
			}
			return notEmpty(args[:before])
		},
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return nil, cobra.ShellCompDirectiveFilterDirs
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			o.command = args
			if dash := cmd.ArgsLenAtDash(); len(args) > 0 && dash != 0 {
				o.workspace, o.command = args[0], args[1:]
			}
			if err := o.checkWorkspace(cmd); err != nil {
				return err
			}
			switch {
			case o.detach && o.request.Ephemeral:
				return usagef("--detach leaves the VM running and --rm deletes it: give one of them")
			case o.detach && len(o.command) > 0:
				return &usageError{message: "--detach runs no command", hint: "give the command to 'banger vm exec' afterwards"}
			}
			ephemeral := o.request.Ephemeral
			var err error
			if o.request, o.spec, err = flags.request(a, cmd); err != nil {
				return err
			}
			o.request.Start, o.request.Ephemeral = true, ephemeral
			return runVMRun(cmd.Context(), a, o)
		},
	}
	flags.addTo(a, cmd)
	cmd.Flags().BoolVar(&o.request.Ephemeral, "rm", false, "delete the VM when the session or command ends")
	cmd.Flags().BoolVarP(&o.detach, "detach", "d", false, "only start the VM and write its name")
	o.shipping.addTo(cmd)
	return cmd
}

// checkWorkspace refuses flags about a workspace where there is none.
func (o *vmRunOptions) checkWorkspace(cmd *cobra.Command) error {
	if o.workspace != "" {
		return o.shipping.check(cmd)
	}
	for _, name := range []string{"branch", "from", "include-untracked", "dry-run", "no-tooling"} {
		if cmd.Flags().Changed(name) {
			return &usageError{message: fmt.Sprintf("--%s is about a workspace, and no PATH is given", name), hint: "give the path of a git repository: banger vm run . --" + name}
		}
	}
	return nil
}

func runVMRun(ctx context.Context, a *app, o vmRunOptions) error {
	var p *prepared
	if o.workspace != "" {
		var err error
		if p, err = a.prepareWorkspace(ctx, o.workspace, o.shipping); err != nil {
			return err
		}
		defer p.close(a)
		if o.shipping.dryRun {
			return a.writeFiles(p.list)
		}
	}
	c, err := a.client(ctx)
	if err != nil {
		return err
	}
	vm, err := a.create(ctx, c, o.request, o.spec)
	if err != nil {
		return err
	}
	if o.request.Ephemeral {
		return a.ephemeral(ctx, c, vm, func() error { return a.runIn(ctx, c, vm, p, o) })
	}
	err = a.runIn(ctx, c, vm, p, o)
	if o.detach && err == nil {
		return a.writeLines(vm.Name)
	}
	a.remind(ctx, c, vm)
	return err
}

// runIn ships the workspace, if there is one, and runs the session or the
// command.
func (a *app) runIn(ctx context.Context, c *client.Client, vm api.VM, p *prepared, o vmRunOptions) error {
	guest := guestOf(c, vm.ID)
	var dir string
	var tools *tooling
	if p != nil {
		if err := a.deliver(ctx, vm, guest, p, o.shipping); err != nil {
			return err
		}
		dir = p.guestDir()
		if !o.shipping.noTooling {
			tools = toolingOf(p)
		}
	}
	if !o.detach {
		command, ok, err := a.containerCommand(ctx, c, vm, o.command)
		if err != nil {
			return err
		}
		if ok {
			if dir != "" {
				command.dir = dir
			}
			return a.runInGuest(ctx, c, vm.ID, guest, command)
		}
	}
	if len(o.command) == 0 {
		if tools != nil {
			tools.start(ctx, a, guest)
		}
		if o.detach {
			return nil
		}
		return a.session(ctx, vm.Name, dir)
	}
	if err := a.waitReady(ctx, guest, vm.Name); err != nil {
		return err
	}
	command := guestCommand{args: o.command, dir: dir, tty: a.wantsTTY()}
	if tools != nil {
		installed, err := tools.run(ctx, a, vm, guest)
		if err != nil {
			return err
		}
		if installed {
			// It sets the tools' environment, and becomes the command.
			command.args = append([]string{"mise", "exec", "--"}, command.args...)
			command.env = append(command.env, "MISE_TRUSTED_CONFIG_PATHS="+dir)
		}
	}
	return a.runInGuest(ctx, c, vm.ID, guest, command)
}

// ephemeral deletes the VM once it was used. bangerd does so too, if this
// process does not live to do it, as soon as it is not held.
func (a *app) ephemeral(ctx context.Context, c *client.Client, vm api.VM, use func() error) error {
	release, err := c.Hold(ctx, vm.ID)
	if err == nil {
		defer release()
		err = use()
	}
	deleteCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), deleteTimeout)
	defer cancel()
	if deleteErr := c.DeleteVM(deleteCtx, vm.ID, api.DeleteVM{Force: true}); deleteErr != nil && !isNotFound(deleteErr) {
		a.warn("cannot delete VM %q: %v", vm.Name, deleteErr)
	}
	return err
}

// remind says that the VM is still there, and what to do with it.
func (a *app) remind(ctx context.Context, c *client.Client, vm api.VM) {
	lookCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	now, err := c.VM(lookCtx, vm.ID)
	switch {
	case err != nil && isNotFound(err):
		return
	case err == nil && now.State == api.StateStopped:
		a.note("VM %q is stopped; start: banger vm start %s; delete: banger vm delete %s", vm.Name, vm.Name, vm.Name)
	default:
		a.note("VM %q is still running; back in: banger vm ssh %s; stop: banger vm stop %s; delete: banger vm delete -f %s", vm.Name, vm.Name, vm.Name, vm.Name)
	}
}
