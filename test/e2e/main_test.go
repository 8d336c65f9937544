package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// enabled is the one gate of these tests.
func enabled() bool { return os.Getenv("BANGER_E2E") != "" }

// prefix is what the programs are installed under, as `make install` does it.
var prefix string

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	if !enabled() {
		return m.Run()
	}
	dir, err := os.MkdirTemp("", "be2e-bin-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	prefix = dir
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Minute)
	defer cancel()
	install := exec.CommandContext(ctx, "make", "--no-print-directory", "install", "PREFIX="+dir, "DESTDIR=")
	install.Dir = filepath.Join("..", "..")
	install.Stdout, install.Stderr = os.Stderr, os.Stderr
	if err := install.Run(); err != nil {
		fmt.Fprintf(os.Stderr, "cannot build the programs: %v\n", err)
		return 1
	}
	return m.Run()
}
