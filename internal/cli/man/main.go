// Man writes one manual page for each command of banger into a directory. It
// is run by make: what it needs must not be part of banger itself.
package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"

	"banger/internal/cli"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: man DIRECTORY")
		os.Exit(2) //nolint:forbidigo // this is main
	}
	if err := write(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "man:", err)
		os.Exit(1) //nolint:forbidigo // this is main
	}
}

func write(dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	root := cli.Tree()
	prepare(root)
	if err := doc.GenManTree(root, &doc.GenManHeader{Title: "BANGER", Section: "1", Source: "banger", Manual: "banger"}, dir); err != nil {
		return fmt.Errorf("cannot write the manual pages: %w", err)
	}
	return nil
}

// prepare keeps the pages the same at every run.
func prepare(cmd *cobra.Command) {
	cmd.DisableAutoGenTag = true
	for _, child := range cmd.Commands() {
		prepare(child)
	}
}
