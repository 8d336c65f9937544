// Banger-shim is what bangerd starts for a VM: with "launch" it confines itself
// and becomes the VMM, with "network" it is the VM's network. A VM waits for
// both, so that nothing is in it that they do not need.
package main

import (
	"fmt"
	"os"

	"banger/internal/network/usernet"
	"banger/internal/vmm/launch/launcher"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintf(os.Stderr, "banger-shim: %v\n", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	switch {
	case len(args) == 1 && args[0] == launcher.Subcommand:
		return launcher.Main()
	case len(args) > 0 && args[0] == usernet.Subcommand:
		return usernet.Main(args[1:])
	}
	return fmt.Errorf("does not know the arguments %q: it is started by bangerd and not by hand", args)
}
