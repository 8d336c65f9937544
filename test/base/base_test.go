package base_test

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"banger/test/base"
)

func TestDirFollowsDefinitions(t *testing.T) {
	t.Setenv("BANGER_TEST_STATE", t.TempDir())
	root := t.TempDir()
	dir := func(definition, kernel, other string) string {
		t.Helper()
		for name, text := range map[string]string{
			base.Image + "/definition.toml": definition, "kernels/" + base.Kernel + ".toml": kernel, "kernels/other.toml": other, "other/definition.toml": other,
		} {
			path := filepath.Join(root, "images", name)
			if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(text), 0o600)); err != nil {
				t.Fatal(err)
			}
		}
		dir, err := base.Dir(root)
		if err != nil {
			t.Fatal(err)
		}
		return dir
	}
	one, two, three := dir("1", "1", "1"), dir("2", "1", "1"), dir("1", "2", "1")
	if one == two || one == three || two == three {
		t.Errorf("directories %q, %q, %q", one, two, three)
	}
	if same := dir("1", "1", "2"); same != one {
		t.Errorf("%q, and %q with other definitions that tests do not use", one, same)
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
