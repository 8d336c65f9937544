// Package processtest runs programs for tests.
package processtest

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"banger/internal/vmm/process"
)

// timeout is for a program that says a few words on a busy machine.
const timeout = time.Minute

// Said returns what a program has said by its end. start starts it, with log for
// its stdout and stderr.
func Said(t *testing.T, start func(log *os.File) (*process.Process, error)) string {
	t.Helper()
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	child, err := start(log)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = child.Close() }()
	select {
	case <-child.Done():
	case <-time.After(timeout):
		_ = child.Kill(t.Context())
		t.Fatal("it does not end")
	}
	said, err := os.ReadFile(log.Name())
	if err != nil {
		t.Fatal(err)
	}
	return string(said)
}
