package recipe

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"banger/internal/tomlfile"
)

const good = `base = "debian-bookworm"
description = "a test"
kernel = "debian-6.1"
packages = ["nginx", "jq=1.6-2.1"]
scripts = ["set-up.sh"]

[[file]]
path = "/etc/one"
source = "files/one"

[[file]]
path = "/usr/local/bin/two"
source = "files/two"
mode = "4755"
`

// write makes a recipe with what it needs, and returns its path.
func write(t *testing.T, text string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "recipe")
	for name, content := range map[string]string{
		"image.toml": text, "set-up.sh": "true\n", "files/one": "1", "files/two": "2", "../outside": "secret",
	} {
		file := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(content), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("../outside", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "image.toml")
}

func TestRead(t *testing.T) {
	t.Parallel()
	got, err := Read(write(t, good))
	if err != nil {
		t.Fatal(err)
	}
	want := &Recipe{
		Base: "debian-bookworm", Description: "a test", Kernel: "debian-6.1", Packages: []string{"nginx", "jq=1.6-2.1"},
		Scripts: []Script{{"set-up.sh", "true\n"}},
		Files:   []File{{"/etc/one", 0o644, []byte("1")}, {"/usr/local/bin/two", 0o4755, []byte("2")}},
		Digest:  got.Digest,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	path := write(t, good)
	if again, err := Read(path); err != nil || again.Digest != got.Digest {
		t.Errorf("the same recipe has the digest %s, %v, and had %s", again.Digest, err, got.Digest)
	}
	if err := os.WriteFile(filepath.Join(filepath.Dir(path), "files", "one"), []byte("3"), 0o600); err != nil {
		t.Fatal(err)
	}
	if other, err := Read(path); err != nil || other.Digest == got.Digest {
		t.Errorf("another recipe has the same digest, %v", err)
	}
	if suite, err := Read(write(t, `suite = "trixie"`)); err != nil || suite.Base != "debian-trixie" {
		t.Errorf("of a suite: %+v, %v", suite, err)
	}
}

func TestReadRefuses(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, old, with, key, want string
		line                       int
	}{
		{"unknown key", "description", "summary", "summary", "unknown key", 2},
		{"wrong type", `"debian-bookworm"`, "12", "base", "", 1},
		{"no TOML", `base = "debian-bookworm"`, "base", "", "", 1},
		{"no base", `base = "debian-bookworm"`, "", "base", "is missing", 0},
		{"base that is an option", `"debian-bookworm"`, `"--x"`, "base", "not allowed", 1},
		{"two bases", `kernel =`, "suite = \"trixie\"\nkernel =", "base", "one of them", 1},
		{"odd suite", `base = "debian-bookworm"`, `suite = "../x"`, "suite", "not allowed", 1},
		{"odd kernel", `"debian-6.1"`, `"a/b"`, "kernel", "not allowed", 3},
		{"package that is an option", `"nginx"`, `"-x"`, "packages", "no package", 4},
		{"two packages in one", `"nginx"`, `"a b"`, "packages", "no package", 4},
		{"missing script", `"set-up.sh"`, `"none.sh"`, "scripts", "none.sh", 5},
		{"script that is a directory", `"set-up.sh"`, `"files"`, "scripts", "regular", 5},
		{"relative path", `"/etc/one"`, `"etc/one"`, "file.path", "clean absolute path", 8},
		{"path that leaves", `"/usr/local/bin/two"`, `"/usr/../../two"`, "file.path", "clean absolute path", 12},
		{"path that is emptied", `"/etc/one"`, `"/tmp/one"`, "file.path", "not be in the image", 8},
		{"path that a machine has of its own", `"/etc/one"`, `"/etc/ssh/ssh_host_rsa_key"`, "file.path", "not be in the image", 8},
		{"path that is emptied in the end", `"/etc/one"`, `"/etc/machine-id"`, "file.path", "not be in the image", 8},
		{"path that is a mount", `"/usr/local/bin/two"`, `"/var/lib/docker/two"`, "file.path", "not be in the image", 12},
		{"bad mode", `"4755"`, `"rwx"`, "file.mode", "octal", 14},
		{"mode of more than permissions", `"4755"`, `"100644"`, "file.mode", "octal", 14},
		{"no source", `source = "files/one"`, "", "file.source", "missing", 7},
		{"source outside", `"files/one"`, `"../outside"`, "file.source", "outside", 9},
		{"source outside by a link", `"files/one"`, `"link"`, "file.source", "link", 9},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			text := strings.Replace(good, test.old, test.with, 1)
			if text == good {
				t.Fatalf("%q is not in the recipe", test.old)
			}
			_, err := Read(write(t, text))
			bad, ok := errors.AsType[*tomlfile.Error](err)
			if !ok || bad.Key != test.key || bad.Line != test.line || !strings.Contains(bad.Reason, test.want) || !strings.Contains(bad.Error(), "image.toml") {
				t.Errorf("got %v, want one of %q in line %d with %q", err, test.key, test.line, test.want)
			}
		})
	}
	if _, err := Read(filepath.Join(t.TempDir(), "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("of no file: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(good))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := parse("image.toml", data, func(string) ([]byte, error) { return nil, nil })
		if err != nil {
			return
		}
		for _, word := range append(r.Packages, r.Base) {
			if word == "" || word[0] == '-' || strings.ContainsAny(word, " \n\x00") {
				t.Errorf("%q got through", word)
			}
		}
		for _, file := range r.Files {
			if !strings.HasPrefix(file.Path, "/") || strings.Contains(file.Path+"/", "/../") || file.Mode > 0o7777 {
				t.Errorf("%+v got through", file)
			}
		}
	})
}
