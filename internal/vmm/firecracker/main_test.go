package firecracker_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"banger/internal/vmm/firecracker/fctest"
)

// fakeVariable makes this test binary the fake Firecracker.
const fakeVariable = "BANGER_TEST_FAKE_FIRECRACKER"

// fake is a program that is the fake Firecracker.
var fake string

func TestMain(m *testing.M) {
	if os.Getenv(fakeVariable) != "" {
		os.Exit(fctest.Main(os.Args[1:])) //nolint:forbidigo // it is a program
	}
	dir, err := os.MkdirTemp("", "banger-fake-")
	if err != nil {
		panic(err)
	}
	self, err := os.Executable()
	if err != nil {
		panic(err)
	}
	// The driver gives a VMM no environment. Written before anything is
	// started: a file that is open for writing anywhere cannot be run.
	fake = filepath.Join(dir, "firecracker")
	script := fmt.Sprintf("#!/bin/sh\n%s=1 exec '%s' \"$@\"\n", fakeVariable, strings.ReplaceAll(self, "'", `'\''`))
	if err := os.WriteFile(fake, []byte(script), 0o700); err != nil { //nolint:gosec // it is run
		panic(err)
	}
	status := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(status) //nolint:forbidigo // with the fake's directory gone
}
