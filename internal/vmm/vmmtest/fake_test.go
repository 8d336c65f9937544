package vmmtest_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"banger/internal/agent/wire"
	"banger/internal/vmm"
	"banger/internal/vmm/vmmtest"
)

func TestFake(t *testing.T) {
	t.Parallel()
	fake := vmmtest.NewFake(t)
	vmmtest.Run(t, vmmtest.Harness{
		Driver: func(testing.TB) vmm.Driver { return fake },
		Spec: func(tb testing.TB) vmm.Spec {
			tb.Helper()
			dir := tb.TempDir()
			run := filepath.Join(dir, "run")
			if err := os.Mkdir(run, 0o700); err != nil {
				tb.Fatal(err)
			}
			disk := filepath.Join(dir, "disk")
			if err := os.WriteFile(disk, nil, 0o600); err != nil {
				tb.Fatal(err)
			}
			return vmm.Spec{
				ID: "fake", RunDir: run, VCPU: 1, MemoryMiB: 64,
				ConsoleLog: filepath.Join(dir, "console.log"), VMMLog: filepath.Join(dir, "vmm.log"),
				Kernel: "vmlinux",
				Disks:  []vmm.Disk{{Path: disk}},
			}
		},
		Agent:         true,
		Configuration: wire.Configuration{Hostname: "fake"},
		Timeout:       time.Minute,
	})
}
