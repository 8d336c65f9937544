package cli

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"banger/internal/agent"
	"banger/internal/agent/wire"
	"banger/internal/api"
	"banger/internal/client"
	"banger/internal/ssh"
)

// sshWait bounds the wait for a booting guest's sshd.
const sshWait = 2 * time.Minute

func newVMSSH(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "ssh NAME [-- COMMAND [ARG]...]",
		Short: "Open an ssh session in a VM",
		Long: `Open an ssh session in a running VM as root, or run a command there through ssh.
The key and the VM's host keys are banger's own: nothing is asked. As always with
ssh, the words of the command are joined and read by a shell in the guest;
'banger vm exec' is faster and takes them as they are.

'banger vm ssh' uses no configuration of yours for ssh.`,
		Example:           "  banger vm ssh sandbox\n  banger vm ssh sandbox -- 'echo $HOSTNAME; uptime'",
		Args:              nameAndCommand,
		ValidArgsFunction: first(a.live(vmNames)),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runVMSSH(cmd.Context(), a, args[0], withoutDash(args[1:]))
		},
	}
	cmd.Flags().SetInterspersed(false)
	return cmd
}

// nameAndCommand checks NAME [--] COMMAND..., in which banger's own flags come
// before NAME.
func nameAndCommand(_ *cobra.Command, args []string) error {
	if len(args) == 0 || args[0] == "--" {
		return usagef("the VM's name is missing")
	}
	if err := notEmpty(args[:1]); err != nil {
		return err
	}
	if len(args) > 1 && strings.HasPrefix(args[1], "-") && args[1] != "--" {
		return &usageError{
			message: fmt.Sprintf("%q stands between the VM's name and the command", args[1]),
			hint:    fmt.Sprintf("flags of banger go before %s, a command after --", args[0]),
		}
	}
	return nil
}

// withoutDash drops the -- before a command.
func withoutDash(args []string) []string {
	if len(args) > 0 && args[0] == "--" {
		return args[1:]
	}
	return args
}

func runVMSSH(ctx context.Context, a *app, ref string, command []string) error {
	_, vm, err := a.running(ctx, ref)
	if err != nil {
		return err
	}
	return a.ssh(ctx, vm.Name, command)
}

// running returns a VM, and refuses one that is not there for a session.
func (a *app) running(ctx context.Context, ref string) (*client.Client, api.VM, error) {
	c, err := a.client(ctx)
	if err != nil {
		return nil, api.VM{}, err
	}
	vm, err := c.VM(ctx, ref)
	if err != nil {
		return nil, api.VM{}, err
	}
	if vm.State != api.StateRunning {
		return nil, api.VM{}, &api.Error{
			Kind:    api.KindState,
			Message: fmt.Sprintf("VM %q is not running: it is %s", vm.Name, vm.State),
			Hint:    "start it with: banger vm start " + vm.Name,
		}
	}
	return c, vm, nil
}

// session opens a login shell in a directory of the guest, "" being the home.
func (a *app) session(ctx context.Context, name, dir string) error {
	if dir == "" {
		return a.ssh(ctx, name, nil)
	}
	quoted := "'" + strings.ReplaceAll(dir, "'", `'\''`) + "'"
	return a.ssh(ctx, name, []string{"cd " + quoted + ` && exec "${SHELL:-/bin/sh}" -l`}, "-t")
}

// ssh runs the host's ssh, with options of its own, on a VM until the session
// ends.
func (a *app) ssh(ctx context.Context, name string, command []string, options ...string) error {
	dirs, err := a.dirs()
	if err != nil {
		return err
	}
	argv := ssh.Command(dirs.SSHConfig(), name, append([]string{"-o", "LogLevel=ERROR"}, options...), command)
	if _, err := exec.LookPath(argv[0]); err != nil {
		return &api.Error{Kind: api.KindState, Message: "cannot find ssh on this host", Hint: "install it: apt install openssh-client; or use: banger vm exec " + name + " -- bash"}
	}
	// Signals end it, not ctx: it has a terminal to put back.
	cmd := exec.CommandContext(context.WithoutCancel(ctx), argv[0], argv[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = a.env.In, a.env.Out, a.env.Err
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("cannot run ssh: %w", err)
	}
	atTerminal := isTerminal(a.env.In)
	giveBack := a.signals.take(func(number syscall.Signal) {
		// Keys of the terminal reach ssh by themselves.
		if !atTerminal || (number != syscall.SIGINT && number != syscall.SIGQUIT) {
			// It fails only if ssh has ended, and Wait says so.
			_ = cmd.Process.Signal(number)
		}
	})
	defer giveBack()
	err = cmd.Wait()
	if exited, ok := errors.AsType[*exec.ExitError](err); ok {
		if status, ok := exited.Sys().(syscall.WaitStatus); ok && status.Signaled() {
			return &exitError{128 + int(status.Signal())}
		}
		if exited.ExitCode() == sshFailed {
			a.noteSilence(ctx, name)
		}
		return &exitError{exited.ExitCode()}
	}
	if err != nil {
		return fmt.Errorf("cannot run ssh: %w", err)
	}
	return nil
}

// sshFailed is the status of an ssh that has lost its connection, and of any
// command that ends with it.
const sshFailed = 255

// noteSilence says so if a VM's guest does not answer, of which ssh says nothing.
func (a *app) noteSilence(ctx context.Context, name string) {
	c, _, err := a.quietClient()
	if err != nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, a.answerTimeout)
	defer cancel()
	if answers(ctx, guestOf(c, name)) != nil && ctx.Err() == context.DeadlineExceeded {
		a.note("the guest of VM %q does not answer", name)
	}
}

func newInternal(a *app) *cobra.Command {
	group := newGroup("internal", "What banger runs itself", "What banger runs itself. It may change without notice.", groupOther, newSSHProxy(a))
	group.Hidden = true
	return group
}

func newSSHProxy(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "ssh-proxy HOST",
		Short:   "Connect stdin and stdout with a guest's sshd",
		Long:    "Connect stdin and stdout with the sshd of the VM whose name is HOST, or HOST without\n.vm. It is what ssh runs as its ProxyCommand.",
		Example: "  ssh -o ProxyCommand='banger internal ssh-proxy %h' root@sandbox.vm",
		Args:    exactly("the host"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runSSHProxy(cmd.Context(), a, strings.TrimSuffix(args[0], ssh.Domain))
		},
	}
}

func runSSHProxy(ctx context.Context, a *app, name string) error {
	c, vm, err := a.running(ctx, name)
	if err != nil {
		return err
	}
	conn, err := dialSSHD(ctx, guestOf(c, vm.ID), vm.Name)
	if err != nil {
		return err
	}
	var stream halfCloser = conn
	defer stream.Close()
	stop := context.AfterFunc(ctx, func() { stream.Close() })
	defer stop()
	if err := splice(stream, a.env.In, a.env.Out); err != nil && ctx.Err() == nil {
		return fmt.Errorf("cannot carry the ssh connection: %w", err)
	}
	return nil
}

// dialSSHD connects to the guest's sshd, waiting for it while the guest boots.
func dialSSHD(ctx context.Context, guest *agent.Client, name string) (*agent.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, sshWait)
	defer cancel()
	const address = "127.0.0.1:22"
	var settled chan struct{}
	for {
		// What settled means must be known before the attempt, not after it.
		booted := false
		if settled != nil {
			select {
			case <-settled:
				booted = true
			default:
			}
		}
		conn, err := guest.Dial(ctx, address)
		if err == nil {
			return conn, nil
		}
		if answered, ok := errors.AsType[*wire.Error](err); !ok || answered.Kind != wire.ErrRefused {
			return nil, fmt.Errorf("cannot reach sshd in VM %q: %w", name, err)
		}
		if booted {
			return nil, &api.Error{
				Kind:    api.KindState,
				Message: fmt.Sprintf("cannot reach sshd in VM %q: nothing listens on its port 22", name),
				Hint:    fmt.Sprintf("use: banger vm exec %s -- sh", name),
			}
		}
		if settled == nil {
			settled = make(chan struct{})
			go func() {
				// An error leaves it to the timeout.
				if _, err := guest.Ready(ctx); err == nil {
					close(settled)
				}
			}()
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return nil, fmt.Errorf("cannot reach sshd in VM %q: it does not listen after %s", name, sshWait)
		}
	}
}
