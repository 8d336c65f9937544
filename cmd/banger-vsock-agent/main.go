// Command banger-vsock-agent is banger's companion in the guest: the first
// process of its initramfs, then the agent, and at last what ends it.
package main

import (
	"fmt"
	"os"

	"banger/internal/guest/boot"
	"banger/internal/guest/system"
)

func main() {
	var err error
	switch pid := os.Getpid(); {
	case os.Args[0] == boot.AgentName:
		err = system.Run()
	case pid == 1 && len(os.Args) > 1 && os.Args[0] == boot.FinalName:
		err = system.Final(os.Args[1])
	case pid == 1:
		boot.Run()
	default:
		fmt.Fprintln(os.Stderr, "banger-vsock-agent: this runs in banger's guests only")
		os.Exit(2)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "banger: %v\n", err)
		os.Exit(1)
	}
}
