package vm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/agent"
	"banger/internal/vmm"
)

const (
	// maxLog bounds what a guest can put on the host's disk by talking to its
	// console, or a VMM by its own logs, in bytes; lookInterval is between
	// looks at them.
	maxLog       = 16 << 20
	lookInterval = 3 * time.Second
	// haltedTimeout is what a guest that says it has halted gets to answer
	// all the same.
	haltedTimeout = 5 * time.Second
)

// lookAfter keeps the logs of a running VM from growing without bound, and ends a
// guest that has halted.
func (m *Manager) lookAfter(ctx context.Context, name, dir string, machine vmm.Machine) {
	err := errors.Join(boundLog(consoleLog(dir), maxLog), cutLog(vmmLog(dir), maxLog), cutLog(metricsLog(dir), maxLog))
	if err != nil {
		m.log.WarnContext(ctx, "a log may grow", "vm", name, "error", err)
	}
	halted, err := hasHalted(ctx, consoleLog(dir), agent.New(machine.DialAgent))
	if halted {
		m.log.InfoContext(ctx, "ending a VM whose guest has halted", "vm", name)
		err = machine.Kill(ctx)
	}
	if err != nil && ctx.Err() == nil {
		m.log.WarnContext(ctx, "cannot see to a VM", "vm", name, "error", err)
	}
}

// haltMessages are the kernel's last words where it cannot turn the machine
// off: with Firecracker nothing can.
var haltMessages = []string{"reboot: System halted", "reboot: Power off not available: System halted instead", "reboot: Power down"}

// hasHalted says whether a guest's kernel has stopped for good. Its last words
// alone, which a guest may print for fun, do not count while its agent answers.
func hasHalted(ctx context.Context, console string, guest *agent.Client) (bool, error) {
	text, err := readTail(console, 256)
	if err != nil {
		return false, err
	}
	text = strings.TrimRight(text, "\r\n")
	if !slices.ContainsFunc(haltMessages, func(message string) bool { return strings.HasSuffix(text, message) }) {
		return false, nil
	}
	ctx, cancel := context.WithTimeout(ctx, haltedTimeout)
	defer cancel()
	_, err = guest.Hello(ctx)
	return err != nil && !errors.Is(ctx.Err(), context.Canceled), nil
}

// boundLog empties a log that has more than limit bytes. Who writes to it does
// so at its end, wherever that is.
func boundLog(path string, limit int64) error {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) || (err == nil && info.Size() <= limit) {
		return nil
	}
	if err == nil {
		err = os.Truncate(path, 0)
	}
	if err != nil {
		return fmt.Errorf("cannot bound a log: %w", err)
	}
	return nil
}

// cutLog frees the begin of a log that takes more than limit bytes on the
// disk. Who writes to it goes on where it was: the length stays.
func cutLog(path string, limit int64) error {
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot bound a log: %w", err)
	}
	defer file.Close()
	var stat unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &stat); err != nil {
		return fmt.Errorf("cannot bound a log: %w", err)
	}
	if stat.Blocks*512 <= limit {
		return nil
	}
	if err := unix.Fallocate(int(file.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, stat.Size-limit/4); err != nil {
		return fmt.Errorf("cannot bound the log %q: %w", path, err)
	}
	return nil
}
