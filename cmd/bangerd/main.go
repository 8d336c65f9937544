// Bangerd is banger's daemon. It is started by banger when it is needed.
package main

import (
	"context"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"banger/internal/daemon"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	executable, err := os.Executable()
	if err == nil {
		executable, err = filepath.EvalSymlinks(executable)
	}
	if err == nil {
		err = daemon.Run(ctx, daemon.Options{Getenv: os.Getenv, Executable: executable})
	}
	if err != nil {
		daemon.Report(os.Stderr, err)
		os.Exit(1)
	}
}
