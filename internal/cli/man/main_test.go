package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func TestWrite(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "man")
	if err := write(dir); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"banger.1":        "banger-vm(1)",
		"banger-vm-run.1": "banger vm run [FLAGS] [PATH] [-- COMMAND [ARG]...]",
	} {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Error(err)
		} else if !strings.Contains(strings.ReplaceAll(strings.ReplaceAll(string(text), `\fP`, ""), `\-`, "-"), want) {
			t.Errorf("%s does not contain %q:\n%s", name, want, text)
		}
	}
	if hidden, err := filepath.Glob(filepath.Join(dir, "banger-internal*")); err != nil || len(hidden) > 0 {
		t.Errorf("pages of hidden commands: %v, %v", hidden, err)
	}
}

// What writes the pages is no part of the programs.
func TestProgramsDoNotNeedThis(t *testing.T) {
	t.Parallel()
	out, err := exec.CommandContext(t.Context(), "go", "list", "-deps", "banger/cmd/banger", "banger/cmd/bangerd").Output()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(out)) {
		if strings.TrimSpace(line) == "github.com/spf13/cobra/doc" {
			t.Error("cobra/doc is linked into a program")
		}
	}
	if !strings.Contains(string(out), "banger/internal/cli\n") {
		t.Error("banger's own packages are not listed")
	}
}
