package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"golang.org/x/term"

	"banger/internal/agent"
	"banger/internal/agent/wire"
	"banger/internal/api"
	"banger/internal/client"
)

// Exit statuses of a command that could not be run, as shells have them.
const (
	exitNotExecutable = 126
	exitNotFound      = 127
)

// readyTimeout bounds the wait for the guest's init: emulated, on a loaded
// host, a boot takes its time.
const readyTimeout = 3 * time.Minute

// guestCommand is a command to run in a guest.
type guestCommand struct {
	args []string
	env  []string
	dir  string
	tty  bool
	// noInput gives it an empty stdin.
	noInput bool
	// disposable is for what nobody wants the rest of: a signal ends the wait
	// for it, and is not passed on.
	disposable bool
	// stdin and stdout are used in place of banger's own, if set.
	stdin  io.Reader
	stdout io.Writer
}

// wantsTTY reports whether a command gets a terminal of its own: if both ends
// of it are at one here.
func (a *app) wantsTTY() bool { return isTerminal(a.env.In) && isTerminal(a.env.Out) }

// guestOf returns the agent in a VM's guest.
func guestOf(c *client.Client, ref string) *agent.Client {
	return agent.New(c.AgentDialer(ref))
}

// waitReady waits until the guest's init has settled, so that what the image
// starts (Docker and the like) is there. A guest in which something failed is
// a warning.
func (a *app) waitReady(ctx context.Context, guest *agent.Client, name string) error {
	report, end := a.progress()
	defer end()
	report.Step("waiting for the guest's services")
	waitCtx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	ready, err := guest.Ready(waitCtx)
	end()
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case err != nil && waitCtx.Err() != nil:
		a.warn("the guest's services are not ready after %s: see 'banger vm exec %s -- systemctl list-jobs'", readyTimeout, name)
	case err != nil:
		return err
	case len(ready.Failed) > 0:
		a.warn("failed in the guest: %s: see 'banger vm exec %s -- systemctl status %s'", strings.Join(ready.Failed, ", "), name, ready.Failed[0])
	case ready.State == "degraded":
		a.warn("the guest's init says that it is degraded")
	}
	return nil
}

// runInGuest runs a command until its end. A status other than zero is an
// exitError. Whoever interrupts it leaves a guest that does not answer behind,
// and any guest with a third interruption at the latest.
func (a *app) runInGuest(ctx context.Context, c *client.Client, ref string, guest *agent.Client, command guestCommand) (err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	request := wire.ExecRequest{Args: command.args, Env: command.env, Dir: command.dir, TTY: command.tty}
	streams := agent.Streams{Stdin: a.env.In, Stdout: a.env.Out, Stderr: a.env.Err}
	if command.stdin != nil {
		streams.Stdin = command.stdin
	}
	if command.stdout != nil {
		streams.Stdout = command.stdout
	}
	if command.noInput {
		streams.Stdin = nil
	}
	alive := &liveness{within: a.answerTimeout, giveUp: cancel, answer: func(ctx context.Context) error { return answers(ctx, guest) }}
	if command.tty {
		streams.Stderr = nil // the terminal carries it
		request.Env = append(request.Env, terminalEnv(a.env.Getenv)...)
		request.Size = a.terminalSize()
		if streams.Stdin != nil && isTerminal(a.env.In) {
			streams.Stdin = &keyboard{streams.Stdin, func(number syscall.Signal) { alive.doubt(ctx, number) }}
		}
	}
	process, err := guest.Exec(ctx, request, streams)
	if err != nil {
		return a.execError(ctx, c, ref, command.args[0], err)
	}
	if !command.disposable {
		defer a.forwardSignals(ctx, process, alive)()
	}
	if command.tty {
		// Not before: keys interrupt the wait for a guest that hangs.
		restore, err := a.rawInput()
		if err != nil {
			return err
		}
		defer restore()
		defer a.forwardSize(process)()
	}
	exit, err := process.Wait()
	if err != nil {
		return a.execError(ctx, c, ref, command.args[0], err)
	}
	if exit.Code != 0 {
		return &exitError{exit.Code}
	}
	return nil
}

// execError says why a command did not run to its end.
func (a *app) execError(ctx context.Context, c *client.Client, ref, program string, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if answered, ok := errors.AsType[*wire.Error](err); ok {
		switch answered.Kind {
		case wire.ErrNotFound:
			a.complain(answered.Message, "")
			return &exitError{exitNotFound}
		case wire.ErrNotExecutable:
			a.complain(answered.Message, "")
			return &exitError{exitNotExecutable}
		}
		return fmt.Errorf("cannot run %q in the guest: %w", program, err)
	}
	if answered, ok := errors.AsType[*api.Error](err); ok {
		// bangerd's own answer: what was to be asked of the guest is no news.
		return answered
	}
	// A lost connection has a reason worth looking up.
	lookCtx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if vm, lookErr := c.VM(lookCtx, ref); lookErr == nil && vm.State != api.StateRunning {
		return &api.Error{
			Kind:    api.KindState,
			Message: fmt.Sprintf("VM %q stopped before %q ended", vm.Name, program),
			Hint:    fmt.Sprintf("'banger vm logs %s' may say why", vm.Name),
		}
	} else if answered, ok := errors.AsType[*api.Error](lookErr); ok && answered.Kind == api.KindNotFound {
		return &api.Error{Kind: api.KindState, Message: fmt.Sprintf("VM %q was deleted before %q ended", ref, program)}
	}
	return err
}

// terminalEnv tells programs in the guest what terminal they draw on.
func terminalEnv(getenv func(string) string) []string {
	var env []string
	for _, name := range []string{"TERM", "COLORTERM"} {
		if value := getenv(name); value != "" {
			env = append(env, name+"="+value)
		}
	}
	return env
}

// terminalSize is nil if stdout is no terminal.
func (a *app) terminalSize() *wire.Size {
	out := file(a.env.Out)
	if out == nil {
		return nil
	}
	cols, rows, err := term.GetSize(int(out.Fd()))
	if err != nil || cols <= 0 || rows <= 0 || cols > 0xffff || rows > 0xffff {
		return nil
	}
	return &wire.Size{Rows: uint16(rows), Cols: uint16(cols)}
}

// rawInput hands every key to the guest. The returned function gives the
// terminal back; it is deferred, so that a panic does not lose it.
func (a *app) rawInput() (restore func(), err error) {
	if !isTerminal(a.env.In) {
		return func() {}, nil
	}
	fd := int(file(a.env.In).Fd())
	before, err := term.MakeRaw(fd)
	if err != nil {
		return nil, fmt.Errorf("cannot prepare the terminal: %w", err)
	}
	return func() {
		if err := term.Restore(fd, before); err != nil {
			a.warn("cannot restore the terminal: %v; try 'reset'", err)
		}
	}, nil
}

// forwardSize tells the guest when the window changes.
func (a *app) forwardSize(process *agent.Process) (stop func()) {
	changes := make(chan os.Signal, 1)
	done := make(chan struct{})
	signal.Notify(changes, syscall.SIGWINCH)
	go func() {
		for {
			select {
			case <-changes:
				if size := a.terminalSize(); size != nil && process.Resize(*size) != nil {
					return // the stream is gone, and Wait says so
				}
			case <-done:
				return
			}
		}
	}()
	return func() {
		signal.Stop(changes)
		close(done)
	}
}

// giveUpAfter is how many interruptions in a row, each within giveUpWithin of
// the one before, end a session whose command does not react.
const (
	giveUpAfter  = 3
	giveUpWithin = 2 * time.Second
)

// forwardSignals gives the signals that banger gets to the command.
func (a *app) forwardSignals(ctx context.Context, process *agent.Process, alive *liveness) (stop func()) {
	received := make(chan syscall.Signal, 16)
	done := make(chan struct{})
	go func() {
		for {
			select {
			case number := <-received:
				if process.Signal(number) != nil {
					return // the stream is gone, and Wait says so
				}
			case <-done:
				return
			}
		}
	}()
	count, last := 0, time.Time{}
	giveBack := a.signals.take(func(number syscall.Signal) {
		select {
		case received <- number:
		default:
		}
		alive.doubt(ctx, number)
		now := time.Now()
		if now.Sub(last) > giveUpWithin {
			count = 0
		}
		count, last = count+1, now
		if count >= giveUpAfter {
			alive.giveUp(&interruptedError{signal: number})
		}
	})
	return func() {
		giveBack()
		close(done)
	}
}

// halfCloser is a stream whose sending side can be ended alone.
type halfCloser interface {
	net.Conn
	CloseWrite() error
}

// splice connects a stream with stdin and stdout until the stream ends.
func splice(stream halfCloser, in io.Reader, out io.Writer) error {
	go func() {
		// An error here shows as the end of the other direction.
		_, _ = io.Copy(stream, in)
		_ = stream.CloseWrite()
	}()
	_, err := io.Copy(out, stream)
	return err
}
