package image

import (
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// TestPackDirectoryIsBounded has a tar that complains about each of many files.
func TestPackDirectoryIsBounded(t *testing.T) {
	dir := t.TempDir()
	script := "#!/bin/sh\n{ echo tar: ./a: cannot open; head -c 64000000 /dev/zero; } >&2\nexit 2\n"
	if err := os.WriteFile(filepath.Join(dir, "tar"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	err := packDirectory(t.Context(), dir, io.Discard)
	runtime.ReadMemStats(&after)
	if err == nil || !strings.HasSuffix(err.Error(), ": tar: ./a: cannot open") {
		t.Errorf("%v, want what was said first", err)
	}
	if grown := after.TotalAlloc - before.TotalAlloc; grown > 16<<20 {
		t.Errorf("it took %d bytes", grown)
	}
}
