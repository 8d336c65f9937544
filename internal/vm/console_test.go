package vm

import (
	"os"
	"path/filepath"
	"testing"
)

func TestBoundLog(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "console.log")
	if err := boundLog(path, 4); err != nil {
		t.Errorf("a missing log: %v", err)
	}
	log, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	for _, step := range []struct{ add, want string }{
		{"1234", "1234"},
		{"5", ""},
		{"67", "67"}, // and without a hole before it
	} {
		if _, err := log.WriteString(step.add); err != nil {
			t.Fatal(err)
		}
		if err := boundLog(path, 4); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if string(got) != step.want {
			t.Errorf("after %q it has %q, want %q", step.add, got, step.want)
		}
	}
}
