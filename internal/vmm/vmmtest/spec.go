package vmmtest

import (
	"os"
	"path/filepath"
	"testing"

	"banger/internal/vmm"
)

// RunDir makes a directory for sockets: the path of a test's own is too long.
func RunDir(tb testing.TB) string {
	tb.Helper()
	dir, err := os.MkdirTemp("/tmp", "banger-test-") //nolint:usetesting // see above
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			tb.Error(err)
		}
	})
	return dir
}

// Spec is a VM of two disks in dir, without kernel and network.
func Spec(tb testing.TB, dir string) vmm.Spec {
	tb.Helper()
	spec := vmm.Spec{
		ID: "test-1", RunDir: RunDir(tb), VCPU: 1, MemoryMiB: 64,
		ConsoleLog: filepath.Join(dir, "console.log"), VMMLog: filepath.Join(dir, "vmm.log"),
	}
	for i, name := range []string{"root", "overlay"} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, make([]byte, 1<<20), 0o600); err != nil {
			tb.Fatal(err)
		}
		spec.Disks = append(spec.Disks, vmm.Disk{Path: path, ReadOnly: i == 0})
	}
	return spec
}
