// Package cli is the banger command: it turns arguments into calls of bangerd
// and answers into text. One file a verb.
package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"banger/internal/api"
	"banger/internal/client"
	"banger/internal/config"
	"banger/internal/paths"
	"banger/internal/version"
)

// Env is all that a run of banger depends on.
type Env struct {
	// Args are the arguments without the program's name.
	Args []string
	// In, Out and Err are asked for terminals if they are files.
	In       io.Reader
	Out, Err io.Writer
	Getenv   func(string) string
}

// app is what commands share. What costs something is made when first asked
// for: a command pays only for what it uses.
type app struct {
	env     Env
	signals *signals
	// answerTimeout is that of the constant, but in tests.
	answerTimeout time.Duration
	dirs          func() (paths.Dirs, error)
	config        func() (config.Config, error)
	// dial connects to bangerd; nil means its socket.
	dial func(ctx context.Context) (net.Conn, error)
	// ensure makes sure that a bangerd of this build runs.
	ensure func(ctx context.Context, dirs paths.Dirs, c *client.Client) error
}

// Main runs one command and returns the exit status of the process.
func Main(ctx context.Context, env Env) int {
	ctx, sig := watchSignals(ctx)
	defer sig.stop()
	return newApp(env, sig).main(ctx)
}

func newApp(env Env, sig *signals) *app {
	a := &app{env: env, signals: sig, answerTimeout: answerTimeout}
	a.dirs = sync.OnceValues(func() (paths.Dirs, error) { return paths.New(env.Getenv) })
	a.config = sync.OnceValues(func() (config.Config, error) {
		dirs, err := a.dirs()
		if err != nil {
			return config.Config{}, err
		}
		return config.Load(dirs)
	})
	a.ensure = func(ctx context.Context, dirs paths.Dirs, c *client.Client) error {
		launcher, err := a.launcher(c, dirs)
		if err != nil {
			return err
		}
		_, err = launcher.Ensure(ctx)
		return err
	}
	return a
}

// launcher starts the bangerd that belongs to this banger, or the one that
// BANGER_DAEMON names.
func (a *app) launcher(c *client.Client, dirs paths.Dirs) (*client.Launcher, error) {
	launcher := &client.Launcher{Client: c, Dirs: dirs, Build: version.Build(), Program: a.env.Getenv("BANGER_DAEMON")}
	if launcher.Program != "" {
		absolute, err := filepath.Abs(launcher.Program)
		if err != nil {
			return nil, fmt.Errorf("cannot find the program that BANGER_DAEMON names: %w", err)
		}
		launcher.Program = absolute
	}
	return launcher, nil
}

func (a *app) main(ctx context.Context) int {
	root := newRoot(a) //nolint:contextcheck // cobra hands it to the commands
	args := a.env.Args
	if args == nil {
		// Cobra takes nil for "look at os.Args".
		args = []string{}
	}
	root.SetArgs(args)
	root.SetIn(a.env.In)
	root.SetOut(a.env.Out)
	root.SetErr(a.env.Err)
	cmd, err := root.ExecuteContextC(ctx)
	return a.report(ctx, cmd, err)
}

// client connects to bangerd, starting it if it is not there.
func (a *app) client(ctx context.Context) (*client.Client, error) {
	c, dirs, err := a.quietClient()
	if err != nil {
		return nil, err
	}
	if err := a.ensure(ctx, dirs, c); err != nil {
		return nil, err
	}
	return c, nil
}

// quietClient starts nothing.
func (a *app) quietClient() (*client.Client, paths.Dirs, error) {
	dirs, err := a.dirs()
	if err != nil {
		return nil, paths.Dirs{}, err
	}
	c := client.New(dirs.Socket())
	c.Dial = a.dial
	return c, dirs, nil
}

// Exit statuses of banger itself.
const (
	exitFailure = 1
	exitUsage   = 2
)

// usageError is wrong usage: exit status 2.
type usageError struct{ message, hint string }

func (e *usageError) Error() string { return e.message }

func usagef(format string, args ...any) error {
	return &usageError{message: fmt.Sprintf(format, args...)}
}

// exitError ends banger with a status, without a word: it was all said.
type exitError struct{ code int }

func (e *exitError) Error() string { return fmt.Sprintf("exit status %d", e.code) }

// report tells the user about an error and makes it an exit status.
func (a *app) report(ctx context.Context, cmd *cobra.Command, err error) int {
	if err == nil {
		return 0
	}
	if exit, ok := errors.AsType[*exitError](err); ok {
		return exit.code
	}
	if interrupted, ok := errors.AsType[*interruptedError](err); ok {
		a.complain(interrupted.Error(), "")
		return interrupted.status()
	}
	if interrupted, ok := errors.AsType[*interruptedError](context.Cause(ctx)); ok && errors.Is(err, context.Canceled) {
		a.complain(interrupted.Error(), "")
		return interrupted.status()
	}
	help := fmt.Sprintf("see '%s --help'", cmd.CommandPath())
	if usage, ok := errors.AsType[*usageError](err); ok {
		a.complain(usage.message, cmp.Or(usage.hint, help))
		return exitUsage
	}
	if answered, ok := errors.AsType[*api.Error](err); ok {
		if answered.Kind == api.KindUsage {
			a.complain(err.Error(), cmp.Or(answered.Hint, help))
			return exitUsage
		}
		a.complain(err.Error(), answered.Hint)
		return exitFailure
	}
	if bad, ok := errors.AsType[*config.Error](err); ok {
		a.complain(bad.Error(), "correct that line, or delete it: every key has a default")
		return exitFailure
	}
	if refused, ok := errors.AsType[*paths.Error](err); ok {
		a.complain(err.Error(), refused.Hint)
		return exitFailure
	}
	a.complain(err.Error(), "")
	return exitFailure
}

// complain writes what the contract promises: one line, and maybe a hint.
func (a *app) complain(message, hint string) {
	fmt.Fprintf(a.env.Err, "banger: %s\n", oneLine(message))
	if hint != "" {
		fmt.Fprintf(a.env.Err, "hint: %s\n", oneLine(hint))
	}
}

// note writes one line of information.
func (a *app) note(format string, args ...any) {
	fmt.Fprintln(a.env.Err, oneLine(fmt.Sprintf(format, args...)))
}

// warn writes one line that must be seen.
func (a *app) warn(format string, args ...any) {
	fmt.Fprintln(a.env.Err, "warning: "+oneLine(fmt.Sprintf(format, args...)))
}

// file returns a stream's file, or nil if it is none.
func file(stream any) *os.File {
	f, _ := stream.(*os.File)
	return f
}

// isNotFound reports whether bangerd says that there is no such thing.
func isNotFound(err error) bool {
	answered, ok := errors.AsType[*api.Error](err)
	return ok && answered.Kind == api.KindNotFound
}
