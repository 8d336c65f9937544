package cli

import "github.com/spf13/cobra"

// Tree returns all commands, to be documented. They are not for running.
func Tree() *cobra.Command {
	return newRoot(newApp(Env{Getenv: func(string) string { return "" }}, nil))
}
