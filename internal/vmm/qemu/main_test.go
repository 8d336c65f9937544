package qemu_test

import (
	"fmt"
	"os"
	"testing"

	"banger/internal/vmm/launch/launcher"
)

// self is this test binary, which is the launcher as well.
var self string

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == launcher.Subcommand {
		fmt.Fprintln(os.Stderr, launcher.Main())
		os.Exit(1) //nolint:forbidigo // it is a program
	}
	var err error
	if self, err = os.Executable(); err != nil {
		panic(err)
	}
	os.Exit(m.Run()) //nolint:forbidigo // nothing to clean up
}
