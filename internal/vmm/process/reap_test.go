package process

import (
	"context"
	"os"
	"path/filepath"
	"testing"
)

// What is there at the first look may be gone when it is asked.
func TestReapOfNobody(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "socket")
	if err := Reap(t.Context(), path); err != nil {
		t.Error(err)
	}
	if err := os.Symlink("gone", path); err != nil {
		t.Fatal(err)
	}
	if err := Reap(t.Context(), path); err != nil {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Reap(ctx, path); err == nil {
		t.Error("nothing was asked, but nobody is said to be there")
	}
}
