package system

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"banger/internal/agent/wire"
)

func TestShuttingDown(t *testing.T) {
	t.Parallel()
	for comm, want := range map[string]bool{
		"init\n":            false, // systemd is not there yet: it has not got the signal
		"systemd\n":         false,
		"systemd-shutdow\n": true,
		"shutdown\n":        true,
	} {
		proc := t.TempDir()
		if err := os.Mkdir(filepath.Join(proc, "1"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(proc, "1", "comm"), []byte(comm), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := shuttingDown(proc); got != want {
			t.Errorf("%q: %v", comm, got)
		}
	}
	if shuttingDown(t.TempDir()) {
		t.Error("shutting down without a process")
	}
}

func TestHowToEnd(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		cmdline string
		reboot  bool
		want    int
	}{
		{"console=ttyS0", false, unix.LINUX_REBOOT_CMD_POWER_OFF},
		{"console=ttyS0", true, unix.LINUX_REBOOT_CMD_RESTART},
		{"quiet " + wire.PowerOffByReboot + " reboot=k\n", false, unix.LINUX_REBOOT_CMD_RESTART},
		{"x" + wire.PowerOffByReboot, false, unix.LINUX_REBOOT_CMD_POWER_OFF},
	} {
		path := filepath.Join(t.TempDir(), "cmdline")
		if err := os.WriteFile(path, []byte(test.cmdline), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := howToEnd(test.reboot, path); got != test.want {
			t.Errorf("%q, reboot %v: %x", test.cmdline, test.reboot, got)
		}
	}
}
