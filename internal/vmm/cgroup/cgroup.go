// Package cgroup bounds what a process takes of the host's memory and threads,
// in a cgroup of its own. systemd makes it and removes it with the process, so
// that nothing is left behind: the user's own systemd, or root's.
package cgroup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/godbus/dbus/v5"

	"banger/internal/confine"
	"banger/internal/vmm/process"
)

const layerName = "cgroup"

// Limits of a cgroup.
type Limits struct {
	MemoryBytes uint64
	Threads     uint64
}

const (
	// timeout bounds all that is asked of systemd.
	timeout = 10 * time.Second
	// firstPoll is between two looks at first, lastPoll at last: systemd takes
	// milliseconds, and seconds where a guest starts on its only CPU.
	firstPoll, lastPoll = 5 * time.Millisecond, 50 * time.Millisecond
)

// Place puts a running process into a cgroup of its own with these limits, and
// says whether that is so. name is a part of the cgroup's.
func Place(ctx context.Context, name string, who process.Identity, limits Limits) confine.Layer {
	layer := confine.Layer{Name: layerName}
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, errors.New("systemd does not answer"))
	defer cancel()
	unit := fmt.Sprintf("banger-%s-%d.scope", name, who.PID)
	if err := place(ctx, unit, who, limits); err != nil {
		layer.Detail = err.Error()
		return layer
	}
	layer.On, layer.Detail = true, fmt.Sprintf("%d MiB of memory, %d threads (%s)", limits.MemoryBytes>>20, limits.Threads, unit)
	return layer
}

func place(ctx context.Context, unit string, who process.Identity, limits Limits) error {
	address, err := thisManager()
	if err != nil {
		return err
	}
	if err := startScope(ctx, address, unit, who, limits); err != nil {
		return err
	}
	return await(ctx, "/", unit, who.PID, limits)
}

// Check says whether this user's processes can be given cgroups. It does not
// try.
func Check() confine.Layer {
	layer := confine.Layer{Name: layerName, On: true, Detail: "limits of memory and threads, by systemd"}
	if _, err := thisManager(); err != nil {
		layer.On, layer.Detail = false, err.Error()
	}
	return layer
}

func thisManager() (string, error) {
	who, err := user.Current()
	if err != nil {
		return "", fmt.Errorf("cannot find out who this is: %w", err)
	}
	return manager("/", os.Geteuid(), who.Username)
}

// manager is the D-Bus address of the systemd that can make cgroups for a user:
// one that does not end before the user's processes would. root is the host's.
func manager(root string, uid int, name string) (string, error) {
	if _, err := os.Stat(filepath.Join(root, "run/systemd/system")); err != nil {
		return "", errors.New("systemd does not run here")
	}
	if uid == 0 {
		return "unix:path=" + filepath.Join(root, "run/dbus/system_bus_socket"), nil
	}
	id := strconv.Itoa(uid)
	bus := filepath.Join(root, "run/user", id, "bus")
	if _, err := os.Stat(bus); err != nil {
		return "", fmt.Errorf("the user has no systemd: there is no %s", bus)
	}
	own, err := os.ReadFile(filepath.Join(root, "proc/self/cgroup"))
	if err != nil {
		return "", fmt.Errorf("cannot find out where this process runs: %w", err)
	}
	// In there a process ends with that systemd wherever it is put.
	inside := strings.Contains(string(own), "/user@"+id+".service/")
	_, err = os.Stat(filepath.Join(root, "var/lib/systemd/linger", name))
	if !inside && err != nil {
		return "", errors.New("the user's systemd ends with the last session, and VMs are to go on: loginctl enable-linger has it go on, too")
	}
	return "unix:path=" + bus, nil
}

// property and auxiliary are what StartTransientUnit takes: a(sv) and
// a(sa(sv)).
type property struct {
	Name  string
	Value dbus.Variant
}

type auxiliary struct {
	Name       string
	Properties []property
}

// startScope has systemd make a scope around a process.
func startScope(ctx context.Context, address, unit string, who process.Identity, limits Limits) error {
	conn, err := dbus.Dial(address, dbus.WithContext(ctx))
	if err != nil {
		return fmt.Errorf("cannot reach systemd: %w", err)
	}
	defer func() { _ = conn.Close() }()
	if err := conn.Auth(nil); err != nil {
		return fmt.Errorf("cannot reach systemd: %w", err)
	}
	if err := conn.Hello(); err != nil {
		return fmt.Errorf("cannot reach systemd: %w", err)
	}
	return askScope(ctx, conn, unit, who, limits)
}

// askScope asks by the pid: that it is still the process's is looked at last.
func askScope(ctx context.Context, conn *dbus.Conn, unit string, who process.Identity, limits Limits) error {
	properties := []property{
		{"Description", dbus.MakeVariant("a VM of banger")},
		{"PIDs", dbus.MakeVariant([]uint32{uint32(who.PID)})},
		{"MemoryMax", dbus.MakeVariant(limits.MemoryBytes)},
		{"TasksMax", dbus.MakeVariant(limits.Threads)},
		{"CollectMode", dbus.MakeVariant("inactive-or-failed")},
	}
	if err := who.Check(); err != nil {
		return fmt.Errorf("process %d gets no cgroup: %w", who.PID, err)
	}
	call := conn.Object("org.freedesktop.systemd1", "/org/freedesktop/systemd1").CallWithContext(
		ctx, "org.freedesktop.systemd1.Manager.StartTransientUnit", 0, unit, "fail", properties, []auxiliary{})
	if call.Err != nil {
		return fmt.Errorf("systemd makes no cgroup: %w", call.Err)
	}
	return nil
}

// await returns when the process is in the unit's cgroup and the kernel holds
// it to the limits.
func await(ctx context.Context, root, unit string, pid int, limits Limits) error {
	for pause := firstPoll; ; pause = min(2*pause, lastPoll) {
		path, err := find(root, pid)
		if err == nil && filepath.Base(path) == unit {
			return check(filepath.Join(root, "sys/fs/cgroup", path), limits)
		}
		if errors.Is(err, os.ErrNotExist) {
			return err // it has ended
		}
		select {
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("process %d does not get into its cgroup: %w", pid, context.Cause(ctx)), err)
		case <-time.After(pause):
		}
	}
}

// find returns the cgroup, of version 2, of a process.
func find(root string, pid int) (string, error) {
	text, err := os.ReadFile(filepath.Join(root, "proc", strconv.Itoa(pid), "cgroup"))
	if err != nil {
		return "", fmt.Errorf("cannot find the cgroup of process %d: %w", pid, err)
	}
	for line := range strings.Lines(string(text)) {
		if path, found := strings.CutPrefix(line, "0::"); found {
			return strings.TrimSpace(path), nil
		}
	}
	return "", fmt.Errorf("cannot find the cgroup of process %d: this host has no cgroups of version 2", pid)
}

func check(dir string, limits Limits) error {
	for name, want := range map[string]uint64{"memory.max": limits.MemoryBytes, "pids.max": limits.Threads} {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("its cgroup has no %s: the controller is not delegated to the user", name)
		}
		if err != nil {
			return fmt.Errorf("cannot look at its cgroup: %w", err)
		}
		// The kernel counts memory by pages.
		got, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 64)
		if err != nil || got > want {
			return fmt.Errorf("its cgroup has %s %q in place of %d", name, strings.TrimSpace(string(text)), want)
		}
	}
	return nil
}
