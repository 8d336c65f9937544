package vmm

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

func TestAskVersion(t *testing.T) { // not beside others: it counts memory
	dir := t.TempDir()
	program := func(name, script string) string {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script), 0o700); err != nil {
			t.Fatal(err)
		}
		return path
	}
	if got, err := AskVersion(t.Context(), program("good", "echo VMM $1")); err != nil || got != "VMM --version\n" {
		t.Errorf("it says %q, %v", got, err)
	}
	for script, want := range map[string]string{
		"echo >&2; echo no such library >&2; echo more >&2; exit 3": " does not tell its version: exit status 3: no such library",
		"exit 4": " does not tell its version: exit status 4",
	} {
		path := program("bad", script)
		if got, err := AskVersion(t.Context(), path); err == nil || !strings.HasSuffix(err.Error(), path+`"`+want) {
			t.Errorf("%q, %v, want an error %q", got, err, want)
		}
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	got, err := AskVersion(t.Context(), program("much", "echo VMM 1; head -c 64000000 /dev/zero; head -c 64000000 /dev/zero >&2"))
	runtime.ReadMemStats(&after)
	if err != nil || !strings.HasPrefix(got, "VMM 1\n") {
		t.Errorf("of much: %.20q, %v", got, err)
	}
	if grown := after.TotalAlloc - before.TotalAlloc; grown > 16<<20 {
		t.Errorf("it took %d bytes", grown)
	}
}
