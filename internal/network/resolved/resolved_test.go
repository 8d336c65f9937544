package resolved

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"banger/internal/network/program"
)

func TestInstall(t *testing.T) {
	t.Parallel()
	bin := t.TempDir()
	said := filepath.Join(bin, "said")
	if err := os.WriteFile(filepath.Join(bin, "systemctl"), []byte("#!/bin/sh\necho \"$*\" >>"+said+"\n"), 0o755); err != nil { //nolint:gosec // it is run
		t.Fatal(err)
	}
	ctx := program.WithStubs(t.Context(), bin)
	path := filepath.Join(t.TempDir(), "resolved.conf.d", "banger.conf")
	step := func(what string, changed bool, err error, want bool) {
		t.Helper()
		if err != nil || changed != want {
			t.Errorf("%s: changed %v, %v", what, changed, err)
		}
	}
	changed, err := uninstall(ctx, path)
	step("without one", changed, err, false)
	changed, err = install(ctx, path, 42069)
	step("install", changed, err, true)
	changed, err = install(ctx, path, 42069)
	step("again", changed, err, false)
	changed, err = install(ctx, path, 42070)
	step("another port", changed, err, true)
	if data, err := os.ReadFile(path); err != nil || string(data) != "# Made by banger network resolved --install.\n[Resolve]\nDNS=127.0.0.1:42070\nDomains=~vm\n" {
		t.Errorf("it is %q, %v", data, err)
	}
	changed, err = uninstall(ctx, path)
	step("uninstall", changed, err, true)
	if data, err := os.ReadFile(said); err != nil || strings.Count(string(data), "restart systemd-resolved\n") != 4 {
		t.Errorf("asked of systemd: %q, %v", data, err)
	}
	if err := os.WriteFile(path, []byte("[Resolve]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := install(ctx, path, 1); err == nil {
		t.Error("a file of somebody else's is replaced")
	}
	if _, err := uninstall(ctx, path); err == nil {
		t.Error("a file of somebody else's is removed")
	}
}
