package leftout_test

import (
	"strings"
	"testing"

	"banger/internal/leftout"
)

func TestWhy(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{
		"etc/ssh/ssh_host_ed25519_key": "own", "etc/ssh/ssh_host_x/y": "own", "etc/machine-id": "own", "root/.ssh/authorized_keys": "own",
		"tmp/x": "in /tmp", "run": "in /run", "var/lib/docker/daemon.json": "in /var/lib/docker", "proc/1": "in /proc",
		"etc/ssh/sshd_config": "", "root/.ssh/config": "", "var/lib/dockerfiles/x": "", "etc/tmp/x": "", "tmpfile": "",
	} {
		if got := leftout.Why(name); (got == "") != (want == "") || !strings.Contains(got, want) {
			t.Errorf("%s: %q, want %q in it", name, got, want)
		}
	}
}
