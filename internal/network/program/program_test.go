package program

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func stub(t *testing.T, name, text string) (dir string) {
	t.Helper()
	dir = t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+text+"\n"), 0o755); err != nil { //nolint:gosec // it is run
		t.Fatal(err)
	}
	return dir
}

// TestFind has programs of the user's in PATH, which sudo may keep.
func TestFind(t *testing.T) {
	if os.Geteuid() != 0 || alone() {
		t.Skip("SKIPPED: root alone is careful")
	}
	dir := stub(t, "env", "echo mine")
	if err := os.Symlink("/usr/bin/id", filepath.Join(dir, "true")); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":.:"+os.Getenv("PATH"))
	for _, name := range []string{"env", "true"} {
		if path := find(t.Context(), name); filepath.Dir(path) != "/usr/bin" || strings.HasSuffix(path, "/id") {
			t.Errorf("root runs %q for %s", path, name)
		}
	}
	if err := os.Remove(filepath.Join(dir, "env")); err != nil {
		t.Fatal(err)
	}
	only := stub(t, "only-the-users", "")
	t.Setenv("PATH", only)
	if _, err := Run(t.Context(), "", "only-the-users"); err == nil || !strings.Contains(err.Error(), "cannot find") {
		t.Errorf("a program that only the user has: %v", err)
	}
}

func TestRunEnvironment(t *testing.T) {
	t.Setenv("LD_LIBRARY_PATH", "/nowhere")
	out, err := Run(WithStubs(t.Context(), stub(t, "it", "env")), "", "it")
	if err != nil || strings.Contains(out, "LD_LIBRARY_PATH") || !strings.Contains(out, "LC_ALL=C") || !strings.Contains(out, "PATH=/usr/sbin:") {
		t.Errorf("the environment: %q, %v", out, err)
	}
}

// TestRunIsBounded has a program that complains of much.
func TestRunIsBounded(t *testing.T) {
	dir := stub(t, "it", "echo no such chain >&2; head -c 1000000 /dev/zero | tr '\\0' x >&2; exit 1")
	_, err := Run(WithStubs(t.Context(), dir), "", "it")
	if err == nil || !strings.Contains(err.Error(), ": no such chain xxx") || len(err.Error()) > 3*maxSaid {
		t.Errorf("the error has %d bytes: %.100v", len(fmt.Sprint(err)), err)
	}
}

func TestOnlyRoots(t *testing.T) {
	t.Parallel()
	if !OnlyRoots("/usr/bin") {
		t.Error("/usr/bin is said to be open to others")
	}
	dir := t.TempDir() // below /tmp, which all can write
	if OnlyRoots(dir) || OnlyRoots(filepath.Join(dir, "missing")) {
		t.Error("a directory below /tmp is said to be root's alone")
	}
}
