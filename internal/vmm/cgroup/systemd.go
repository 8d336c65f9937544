package cgroup

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/godbus/dbus/v5"
)

func thisManager() (string, error) {
	who, err := user.Current()
	if err != nil {
		return "", fmt.Errorf("cannot find out who this is: %w", err)
	}
	return manager("/", os.Geteuid(), who.Username)
}

// manager is the D-Bus address of the systemd that can make scopes for a user:
// one that does not end before the user's processes would. root is the host's.
func manager(root string, uid int, name string) (string, error) {
	if _, err := os.Stat(filepath.Join(root, "run/systemd/system")); err != nil {
		return "", errors.New("systemd does not run here")
	}
	if _, err := os.Stat(filepath.Join(root, "sys/fs/cgroup/cgroup.controllers")); err != nil {
		return "", errors.New("this host has no cgroups of version 2, or others as well")
	}
	if uid == 0 {
		return "unix:path=" + filepath.Join(root, "run/dbus/system_bus_socket"), nil
	}
	id := strconv.Itoa(uid)
	bus := filepath.Join(root, "run/user", id, "bus")
	if _, err := os.Stat(bus); err != nil {
		return "", fmt.Errorf("the user has no systemd: there is no %s", bus)
	}
	own, err := ownCgroup(root)
	if err != nil {
		return "", err
	}
	// In there a process ends with that systemd wherever it is put.
	inside := strings.Contains(own, "/user@"+id+".service/")
	_, err = os.Stat(filepath.Join(root, "var/lib/systemd/linger", name))
	if !inside && err != nil {
		return "", errors.New("the user's systemd ends with the last session, and VMs are to go on: loginctl enable-linger has it go on, too")
	}
	return "unix:path=" + bus, nil
}

// ownCgroup returns the cgroup of this process, below that of all.
func ownCgroup(root string) (string, error) {
	text, err := os.ReadFile(filepath.Join(root, "proc/self/cgroup"))
	if err != nil {
		return "", fmt.Errorf("cannot find the cgroup of this process: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		if path, found := strings.CutPrefix(line, "0::"); found {
			return strings.TrimSpace(path), nil
		}
	}
	return "", errors.New("cannot find the cgroup of this process: it is in none of version 2")
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

// startScope has systemd make a scope around this process, and leave what is
// in it to this process. It lasts as long as there is any process in it.
func startScope(ctx context.Context, address, unit string) (err error) {
	defer func() {
		if err != nil && ctx.Err() != nil {
			err = context.Cause(ctx)
		}
	}()
	conn, err := dbus.Connect(address, dbus.WithContext(ctx))
	if err != nil {
		return fmt.Errorf("cannot reach systemd: %w", err)
	}
	defer func() { _ = conn.Close() }()
	properties := []property{
		{"Description", dbus.MakeVariant("VMs of banger")},
		{"PIDs", dbus.MakeVariant([]uint32{uint32(os.Getpid())})},
		{"DelegateControllers", dbus.MakeVariant([]string{"memory", "pids"})},
		// Of all VMs together: each has its own.
		{"TasksMax", dbus.MakeVariant(uint64(math.MaxUint64))},
		{"CollectMode", dbus.MakeVariant("inactive-or-failed")},
	}
	call := conn.Object("org.freedesktop.systemd1", "/org/freedesktop/systemd1").CallWithContext(
		ctx, "org.freedesktop.systemd1.Manager.StartTransientUnit", 0, unit, "fail", properties, []auxiliary{})
	if call.Err != nil {
		return fmt.Errorf("systemd makes no scope: %w", call.Err)
	}
	return nil
}
