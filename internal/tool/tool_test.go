package tool

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

func TestFind(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("PATH", dir)
	own := filepath.Join(dir, "banger-test-tool")
	if err := os.WriteFile(own, []byte("#!/bin/sh\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	if got, err := Find("banger-test-tool"); err != nil || got != own {
		t.Errorf("in PATH: %q, %v", got, err)
	}
	if got, err := Find("banger-no-such-tool"); !errors.Is(err, exec.ErrNotFound) {
		t.Errorf("nowhere: %q, %v", got, err)
	}
	// Any that this host has there.
	there, err := filepath.Glob("/usr/sbin/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range there {
		if _, err := exec.LookPath(path); err != nil {
			continue
		}
		if got, err := Find(filepath.Base(path)); err != nil || got != path {
			t.Errorf("in /usr/sbin: %q, %v", got, err)
		}
		return
	}
	t.Log("nothing in /usr/sbin")
}
