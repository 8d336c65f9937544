// Bangerd is banger's daemon. It is started by banger when it is needed, without
// an argument; with "doctor" it only looks at the host.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"banger/internal/api"
	"banger/internal/daemon"
	"banger/internal/doctor/host"
)

func main() {
	// What bangerd and its VMMs make is the user's alone, whatever the umask
	// of the shell that happened to start it.
	syscall.Umask(0o077)
	if err := run(); err != nil {
		daemon.Report(os.Stderr, err)
		if known, ok := errors.AsType[*api.Error](err); ok && known.Kind == api.KindUsage {
			os.Exit(2)
		}
		os.Exit(1)
	}
}

func run() error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	executable, err := os.Executable()
	if err == nil {
		executable, err = filepath.EvalSymlinks(executable)
	}
	switch {
	case err != nil:
		return err
	case len(os.Args) == 2 && os.Args[1] == "doctor":
		return host.Report(ctx, os.Getenv, executable, os.Stdout)
	case len(os.Args) > 1: // no daemon for who only asks
		return &api.Error{
			Kind:    api.KindUsage,
			Message: fmt.Sprintf("does not know the arguments %q: it is banger's daemon, started by banger and not by hand", strings.Join(os.Args[1:], " ")),
			Hint:    "banger --help",
		}
	}
	return daemon.Run(ctx, daemon.Options{Getenv: os.Getenv, Executable: executable})
}
