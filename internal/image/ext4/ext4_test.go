package ext4

import (
	"archive/tar"
	"bytes"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"banger/internal/tool"
)

// TestTimes has debugfs tell what is stored: seconds, and what belongs to them.
func TestTimes(t *testing.T) {
	t.Parallel()
	debugfs, err := tool.Find("debugfs")
	if err != nil {
		t.Skip("SKIPPED: debugfs (e2fsprogs) is not installed")
	}
	times := map[string]struct {
		time   time.Time
		stored string
	}{
		"1901": {time.Unix(-1<<31, 0), "0x80000000:00000000"},
		"1969": {time.Unix(-1, 500), "0xffffffff:00000000"},
		"1970": {time.Unix(1, 0), "0x00000001:00000000"},
		"2023": {time.Unix(1_700_000_000, 123_456_789), "0x6553f100:1d6f3454"},
		"2040": {time.Unix(2_208_988_800, 1), "0x83aa7e80:00000005"},
		"2110": {time.Unix(1<<32, 0), "0x00000000:00000001"},
		"2200": {time.Unix(7_258_118_400, 0), "0xb09e1900:00000002"},
	}
	var stream bytes.Buffer
	w := tar.NewWriter(&stream)
	for name, test := range times {
		if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, ModTime: test.time, Format: tar.FormatPAX}); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "root.ext4")
	if err := Write(path, &stream); err != nil {
		t.Fatal(err)
	}
	for name, test := range times {
		out, err := exec.CommandContext(t.Context(), debugfs, "-R", "stat /"+name, path).CombinedOutput()
		if err != nil || !strings.Contains(string(out), " mtime: "+test.stored) {
			t.Errorf("%s: got %v, want %s in\n%s", name, err, test.stored, out)
		}
	}
}
