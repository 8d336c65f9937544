package firecracker_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"banger/internal/vmm/firecracker/fctest"
	"banger/internal/vmm/launch/launcher"
)

// Programs that are this test binary: itself, which is the launcher as well,
// and under another name the fake Firecracker.
var self, fake string

func TestMain(m *testing.M) {
	if filepath.Base(os.Args[0]) == "firecracker" {
		os.Exit(fctest.Main(os.Args[1:])) //nolint:forbidigo // it is a program
	}
	if len(os.Args) > 1 && os.Args[1] == launcher.Subcommand {
		fmt.Fprintln(os.Stderr, launcher.Main())
		os.Exit(1) //nolint:forbidigo // it is a program
	}
	dir, err := os.MkdirTemp("", "banger-fake-")
	if err != nil {
		panic(err)
	}
	if self, err = os.Executable(); err != nil {
		panic(err)
	}
	fake = filepath.Join(dir, "firecracker")
	if err := os.Symlink(self, fake); err != nil {
		panic(err)
	}
	status := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(status) //nolint:forbidigo // with the fake's directory gone
}
