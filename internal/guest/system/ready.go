package system

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"banger/internal/agent/wire"
)

// Ready waits until the guest's init has finished booting.
func (s *System) Ready(ctx context.Context) (wire.Ready, error) {
	select {
	case <-s.mounted:
	case <-ctx.Done():
		return wire.Ready{}, context.Cause(ctx)
	}
	if !s.systemd {
		// Another init has no way to say so.
		return wire.Ready{State: "none"}, nil
	}
	select {
	case <-s.settled:
	case <-ctx.Done():
		return wire.Ready{}, context.Cause(ctx)
	}
	out, err := s.systemctl(ctx, "list-units", "--state=failed", "--plain", "--no-legend", "--no-pager")
	if err != nil {
		return wire.Ready{}, fmt.Errorf("cannot ask systemd for failed units: %w", err)
	}
	ready := wire.Ready{State: "running", Failed: parseUnits(out)}
	if len(ready.Failed) > 0 {
		ready.State = "degraded"
	}
	return ready, nil
}

// parseUnits returns the first word of each line.
func parseUnits(out string) []string {
	var units []string
	for line := range strings.Lines(out) {
		if f := strings.Fields(line); len(f) > 0 {
			units = append(units, f[0])
		}
	}
	return units
}

// systemctlTimeout bounds one call of systemctl.
const systemctlTimeout = time.Minute

func (s *System) systemctl(ctx context.Context, args ...string) (string, error) {
	out, err := s.run(ctx, systemctlTimeout, "/bin/systemctl", args...)
	return string(out), err
}

// run runs a program of the guest in its root.
func (s *System) run(ctx context.Context, timeout time.Duration, program string, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: s.root.Chroot(), Setsid: true}
	return cmd.Output()
}
