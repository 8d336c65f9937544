package objects_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"banger/internal/objects"
)

func TestUsage(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := objects.Open[about](filepath.Join(dir, "store"))
	// Short files have no blocks of their own on some file systems.
	content := strings.Repeat("content\n", 32<<10)
	object, err := s.Fill(t.Context(), "a", writer(content))
	if err != nil {
		t.Fatal(err)
	}
	want := func(what string, want objects.Usage) {
		t.Helper()
		got, err := s.Usage("a")
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%s: %v (-want +got):\n%s", what, err, diff)
		}
	}
	want("alone", objects.Usage{Private: object.Size})

	part := object.Path(object.Parts[0].Path)
	link := filepath.Join(dir, "link")
	if err := os.Link(part, link); err != nil {
		t.Fatal(err)
	}
	var stat unix.Stat_t
	if err := unix.Stat(part, &stat); err != nil {
		t.Fatal(err)
	}
	want("with a link", objects.Usage{Private: object.Size - stat.Blocks*512, Shared: stat.Blocks * 512})
	if err := os.Remove(link); err != nil {
		t.Fatal(err)
	}

	if clone(t, part, filepath.Join(dir, "clone")) {
		want("with a clone", objects.Usage{Private: object.Size - stat.Blocks*512, Shared: stat.Blocks * 512})
		if err := os.Remove(filepath.Join(dir, "clone")); err != nil {
			t.Fatal(err)
		}
	}

	if _, err := s.Fill(t.Context(), "b", writer(content)); err != nil {
		t.Fatal(err)
	}
	want("with another name", objects.Usage{Shared: object.Size, Names: []string{"b"}})
	if _, err := s.Usage("none"); err == nil {
		t.Error("measured what is not there")
	}
}

// clone makes a file of the same blocks, where the file system can.
func clone(t *testing.T, from, to string) bool {
	t.Helper()
	source, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	target, err := os.Create(to)
	if err != nil {
		t.Fatal(err)
	}
	defer target.Close()
	if err := unix.IoctlFileClone(int(target.Fd()), int(source.Fd())); err != nil {
		t.Logf("clones are not tested: %v", err)
		return false
	}
	return true
}
