package sparse

import (
	"bytes"
	"math/rand/v2"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// TestWriter writes data between zeros, in pieces of all lengths.
func TestWriter(t *testing.T) {
	t.Parallel()
	content := make([]byte, 1<<20)
	copy(content[100_000:], bytes.Repeat([]byte("data"), 5000))
	content[500_000] = 1
	file, err := os.Create(filepath.Join(t.TempDir(), "file"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	w := NewWriter(file)
	for rest := content; len(rest) > 0; {
		n := min(len(rest), 1+rand.IntN(20_000))
		if written, err := w.Write(rest[:n]); written != n || err != nil {
			t.Fatalf("wrote %d of %d: %v", written, n, err)
		}
		rest = rest[n:]
	}
	if err := file.Truncate(int64(len(content))); err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(file.Name())
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, content) {
		t.Error("the file has other content")
	}
	info, err := file.Stat()
	if err != nil {
		t.Fatal(err)
	}
	if on := info.Sys().(*syscall.Stat_t).Blocks * 512; on > 100_000 {
		t.Errorf("%d bytes are on the disk", on)
	}
}
