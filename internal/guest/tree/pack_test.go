package tree

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestPackMeanwhile packs files that have changed since they were looked at.
func TestPackMeanwhile(t *testing.T) {
	t.Parallel()
	for _, system := range []bool{false, true} {
		root, dir, _ := newRoot(t)
		for _, name := range []string{"gone", "short"} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte("content"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Link(filepath.Join(dir, "gone"), filepath.Join(dir, "link")); err != nil {
			t.Fatal(err)
		}
		infos := map[string]fs.FileInfo{}
		for _, name := range []string{"gone", "link", "short"} {
			info, err := root.Lstat(name)
			if err != nil {
				t.Fatal(err)
			}
			infos[name] = info
		}
		if err := errors.Join(root.Remove("gone"), os.Truncate(filepath.Join(dir, "short"), 3)); err != nil {
			t.Fatal(err)
		}
		var buf bytes.Buffer
		p := packer{root: root, tar: tar.NewWriter(&buf), links: map[inode]string{}, system: system, path: dir}
		if err := p.add("gone", "gone", infos["gone"]); vanished(err) != nil {
			t.Error(err)
		}
		if err := p.add("link", "link", infos["link"]); err != nil {
			t.Error(err)
		}
		err := p.add("short", "short", infos["short"])
		if !system {
			if err == nil || !strings.Contains(err.Error(), "truncated") {
				t.Errorf("a file that is not whole: %v", err)
			}
			continue
		}
		if err := errors.Join(err, p.tar.Close()); err != nil {
			t.Fatal(err)
		}
		r := tar.NewReader(&buf)
		for _, want := range []string{"link content", "short con\x00\x00\x00\x00"} {
			h, err := r.Next()
			if err != nil {
				t.Fatal(err)
			}
			content, err := io.ReadAll(r)
			if got := h.Name + " " + string(content); err != nil || got != want {
				t.Errorf("packed %q, %v, want %q", got, err, want)
			}
		}
	}
}
