package space

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"banger/internal/api"
)

func TestNeed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	free, err := Free(dir)
	if err != nil || free < 0 {
		t.Fatalf("%d bytes are free: %v", free, err)
	}
	if err := Need(dir, 0); err != nil {
		t.Error(err)
	}
	told, ok := errors.AsType[*api.Error](Need(dir, math.MaxInt64))
	if !ok || told.Kind != api.KindNoSpace || told.Hint != Hint || !strings.HasPrefix(told.Message, dir+" has ") || !strings.HasSuffix(told.Message, " MiB free and 8796093022208 MiB are needed") {
		t.Errorf("too little space: %+v", told)
	}
	if err := Need(filepath.Join(dir, "missing"), 0); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a missing directory: %v", err)
	}
}

func TestIsFull(t *testing.T) {
	t.Parallel()
	for err, want := range map[error]bool{
		nil: false, os.ErrNotExist: false,
		fmt.Errorf("cannot write: %w", &fs.PathError{Op: "write", Path: "x", Err: syscall.ENOSPC}): true,
		syscall.EDQUOT: true,
	} {
		if got := IsFull(err); got != want {
			t.Errorf("%v: %v", err, got)
		}
	}
}
