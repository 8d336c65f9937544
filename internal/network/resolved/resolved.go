// Package resolved has systemd-resolved ask bangerd about NAME.vm, by a drop-in
// of its configuration. That is for VMs with the network of the user mode: the
// bridge brings its own.
package resolved

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"banger/internal/api"
	"banger/internal/atomicfile"
	"banger/internal/network/program"
)

// Paths on a host with systemd-resolved.
const (
	DropIn = "/etc/systemd/resolved.conf.d/banger.conf"
	// running is there while it runs.
	running = "/run/systemd/resolve"
)

const mark = "# Made by banger network resolved --install."

// Text is the drop-in for a bangerd that answers on this port of 127.0.0.1.
func Text(port int) string {
	return fmt.Sprintf("%s\n[Resolve]\nDNS=127.0.0.1:%d\nDomains=~vm\n", mark, port)
}

// Install writes the drop-in and has systemd-resolved read it. It says whether
// the file is another one now. A file that is not banger's is left alone.
func Install(ctx context.Context, port int) (changed bool, err error) {
	if _, err := os.Stat(running); err != nil {
		return false, &api.Error{Kind: api.KindState, Message: "cannot tell systemd-resolved about NAME.vm: it does not run here", Hint: "docs/dns-routing.md has recipes for other resolvers"}
	}
	return install(ctx, DropIn, port)
}

func install(ctx context.Context, path string, port int) (bool, error) {
	old, err := ours(path)
	if err != nil {
		return false, err
	}
	changed := old != Text(port)
	if changed {
		err = os.MkdirAll(filepath.Dir(path), 0o755)
		if err == nil {
			err = atomicfile.Write(path, []byte(Text(port)), 0o644)
		}
		if err != nil {
			return false, fmt.Errorf("cannot write the configuration of systemd-resolved: %w", err)
		}
	}
	// Also one that is as it should be may not have been read yet.
	return changed, restart(ctx)
}

// Uninstall removes the drop-in, if there is one.
func Uninstall(ctx context.Context) (changed bool, err error) { return uninstall(ctx, DropIn) }

func uninstall(ctx context.Context, path string) (bool, error) {
	old, err := ours(path)
	if err != nil || old == "" {
		return false, err
	}
	if err := os.Remove(path); err != nil {
		return false, fmt.Errorf("cannot remove the configuration of systemd-resolved: %w", err)
	}
	return true, restart(ctx)
}

// ours returns the drop-in that is there, empty if there is none.
func ours(path string) (string, error) {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("cannot read the configuration of systemd-resolved: %w", err)
	}
	if !strings.HasPrefix(string(data), mark) {
		return "", &api.Error{Kind: api.KindExists, Message: fmt.Sprintf("cannot use %q: banger did not make it", path), Hint: "remove it, if it is no longer needed"}
	}
	return string(data), nil
}

func restart(ctx context.Context) error {
	if _, err := program.Run(ctx, "", "systemctl", "restart", "systemd-resolved"); err != nil {
		return fmt.Errorf("cannot have systemd-resolved read its configuration: %w", err)
	}
	return nil
}
