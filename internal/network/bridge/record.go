package bridge

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/atomicfile"
)

// record says what was made, or is about to be: it is written before the first
// change and removed after the last, so that whatever ends a setup in its
// middle, another one or a teardown knows what is banger's.
type record struct {
	Settings
	// Complete is set while all is there.
	Complete bool `json:"complete"`
	// MAC is the bridge's, by which it is known again.
	MAC string `json:"mac"`
	// Attached are the public networks that the host was attached to.
	Attached []netip.Prefix `json:"attached"`
	// Forwarding is what the kernel's setting was before, in the boot BootID.
	Forwarding string `json:"forwarding"`
	BootID     string `json:"boot_id"`
	// Unit says that systemd repeats it at boot, Program what it runs if that
	// is a copy that setup made.
	Unit    bool   `json:"unit"`
	Program string `json:"program,omitempty"`
}

// Host is where files go; the links are those of the network namespace that
// the process is in.
type Host struct {
	// State has the record and is made; Units is systemd's directory of units,
	// Program where a copy of the program goes.
	State, Units, Program string
	// Systemd is there while systemd runs, Resolved while systemd-resolved does.
	Systemd, Resolved string
	// Self is the program that runs, by a name that always leads to it.
	Self string
	// onlyRoots is in tests what is taken to be root's alone; nil is the truth.
	onlyRoots func(path string) bool
}

// ThisHost is the machine that the process runs on.
func ThisHost() Host {
	return Host{
		State: "/var/lib/banger", Units: "/etc/systemd/system", Program: "/usr/local/sbin/banger-network",
		Systemd: "/run/systemd/system", Resolved: "/run/systemd/resolve", Self: "/proc/self/exe",
	}
}

func (h Host) recordPath() string { return filepath.Join(h.State, "network.json") }

// load returns nil where nothing was set up.
func (h Host) load() (*record, error) {
	data, err := os.ReadFile(h.recordPath())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read what was set up: %w", err)
	}
	var r record
	if err := json.Unmarshal(data, &r); err != nil {
		return nil, fmt.Errorf("cannot read what was set up from %q: %w", h.recordPath(), err)
	}
	return &r, nil
}

// save lets everybody read it: bangerd does.
func (h Host) save(r *record) error {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("cannot record what is set up: %w", err)
	}
	if err := atomicfile.Write(h.recordPath(), append(data, '\n'), 0o644); err != nil {
		return fmt.Errorf("cannot record what is set up: %w", err)
	}
	return nil
}

// lockTimeout bounds the wait for another one that changes the network.
const lockTimeout = 10 * time.Second

// lock keeps others from changing the network at the same time.
func (h Host) lock(ctx context.Context) (unlock func(), err error) {
	if err := os.MkdirAll(h.State, 0o755); err != nil {
		return nil, fmt.Errorf("cannot make the directory of the record: %w", err)
	}
	dir, err := os.Open(h.State)
	if err != nil {
		return nil, fmt.Errorf("cannot open the directory of the record: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, lockTimeout)
	defer cancel()
	const pause = 20 * time.Millisecond
	for {
		err := unix.Flock(int(dir.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return func() { dir.Close() }, nil
		}
		select {
		case <-ctx.Done():
			dir.Close()
			return nil, fmt.Errorf("cannot change the network: another banger is at it: %w", err)
		case <-time.After(pause):
		}
	}
}

// forget removes the record, last of all, and what a write of it that was cut
// short has left.
func (h Host) forget() error {
	left, err := filepath.Glob(temporaries(h.recordPath()))
	if err != nil {
		return err
	}
	for _, path := range append(left, h.recordPath(), h.State) {
		err := os.Remove(path)
		// The directory stays where somebody has put something else there.
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("cannot remove the record: %w", err)
		}
	}
	return nil
}

// temporaries is the pattern of the names that [atomicfile.Write] uses until it
// is done.
func temporaries(path string) string {
	return filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".*")
}

const forwardingPath = "/proc/sys/net/ipv4/ip_forward"

func readSetting(path string) (string, error) {
	data, err := os.ReadFile(path)
	return strings.TrimSpace(string(data)), err
}

func writeSetting(path, value string) error {
	if now, err := readSetting(path); err == nil && now == value {
		return nil
	}
	return os.WriteFile(path, []byte(value), 0)
}

func bootID() (string, error) { return readSetting("/proc/sys/kernel/random/boot_id") }
