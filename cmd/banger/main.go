// Banger gives a developer a disposable Linux microVM with one command.
package main

import (
	"context"
	"os"

	"banger/internal/cli"
)

func main() {
	os.Exit(cli.Main(context.Background(), cli.Env{
		Args:   os.Args[1:],
		In:     os.Stdin,
		Out:    os.Stdout,
		Err:    os.Stderr,
		Getenv: os.Getenv,
	}))
}
