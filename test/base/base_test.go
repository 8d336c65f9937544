package base_test

import (
	"os"
	"path/filepath"
	"testing"

	"banger/test/base"
)

func TestDirFollowsRecipes(t *testing.T) {
	t.Setenv("BANGER_TEST_STATE", t.TempDir())
	root := t.TempDir()
	if err := os.Mkdir(filepath.Join(root, "images"), 0o700); err != nil {
		t.Fatal(err)
	}
	dir := func(recipe string) string {
		t.Helper()
		if err := os.WriteFile(filepath.Join(root, "images", "recipe"), []byte(recipe), 0o600); err != nil {
			t.Fatal(err)
		}
		dir, err := base.Dir(root)
		if err != nil {
			t.Fatal(err)
		}
		return dir
	}
	one, two, again := dir("one"), dir("two"), dir("one")
	if one == two || one != again {
		t.Errorf("directories %q, %q, %q", one, two, again)
	}
}

func TestProvide(t *testing.T) {
	t.Parallel()
	from, to := t.TempDir(), t.TempDir()
	for _, name := range []string{"images/objects/a/disk", "images/names/i", "images/locks/i", "kernels/objects/k/vmlinux", "kernels/names/k"} {
		path := filepath.Join(from, "banger", name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := base.Provide(t.Context(), from, to); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]bool{"images/objects/a/disk": true, "kernels/names/k": true, "images/locks": false} {
		if _, err := os.Stat(filepath.Join(to, "banger", name)); (err == nil) != want {
			t.Errorf("%s: %v, want it there: %v", name, err, want)
		}
	}
}
