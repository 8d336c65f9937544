package ssh

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"
)

// TestRemoveLegacyConfig plays past losses of users' keys. In each case, root
// is a home directory with config/ssh/ssh_config in it.
func TestRemoveLegacyConfig(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		// make returns the configured key.
		make           func(t *testing.T, root string) string
		fileKept       bool
		dirKept        bool
		alsoKept       string
		relativeToRoot bool
	}{
		{name: "emptied directory goes", make: func(t *testing.T, root string) string {
			t.Helper()
			return touch(t, root, "state/ssh/id")
		}},
		{name: "missing key elsewhere", make: func(_ *testing.T, root string) string {
			return filepath.Join(root, "state/ssh/none")
		}},
		{name: "file already gone", make: func(t *testing.T, root string) string {
			t.Helper()
			if err := os.Remove(filepath.Join(root, "config/ssh/ssh_config")); err != nil {
				t.Fatal(err)
			}
			return touch(t, root, "state/ssh/id")
		}},
		{name: "other file beside it", alsoKept: "config/ssh/notes", dirKept: true, make: func(t *testing.T, root string) string {
			t.Helper()
			touch(t, root, "config/ssh/notes")
			return touch(t, root, "state/ssh/id")
		}},
		{name: "other directory beside it", alsoKept: "config/ssh/old/id", dirKept: true, make: func(t *testing.T, root string) string {
			t.Helper()
			touch(t, root, "config/ssh/old/id")
			return touch(t, root, "state/ssh/id")
		}},
		{name: "neighbour with a longer name", alsoKept: "config/ssh2/id", make: func(t *testing.T, root string) string {
			t.Helper()
			return touch(t, root, "config/ssh2/id")
		}},
		{name: "key in it", fileKept: true, dirKept: true, alsoKept: "config/ssh/id", make: func(t *testing.T, root string) string {
			t.Helper()
			return touch(t, root, "config/ssh/id")
		}},
		{name: "key below it", fileKept: true, dirKept: true, alsoKept: "config/ssh/a/b/id", make: func(t *testing.T, root string) string {
			t.Helper()
			return touch(t, root, "config/ssh/a/b/id")
		}},
		{name: "missing key in it", fileKept: true, dirKept: true, make: func(_ *testing.T, root string) string {
			return filepath.Join(root, "config/ssh/none")
		}},
		{name: "the file itself is the key", fileKept: true, dirKept: true, make: func(_ *testing.T, root string) string {
			return filepath.Join(root, "config/ssh/ssh_config")
		}},
		{name: "key is a link into it", fileKept: true, dirKept: true, alsoKept: "config/ssh/id", make: func(t *testing.T, root string) string {
			t.Helper()
			touch(t, root, "config/ssh/id")
			return link(t, "config/ssh/id", root, "key")
		}},
		{name: "key is a link to the file", fileKept: true, dirKept: true, make: func(t *testing.T, root string) string {
			t.Helper()
			return link(t, filepath.Join(root, "config/ssh/ssh_config"), root, "key")
		}},
		{name: "key is a dangling link into it", fileKept: true, dirKept: true, make: func(t *testing.T, root string) string {
			t.Helper()
			return link(t, "config/ssh/none", root, "key")
		}},
		{name: "key is in it and a link out of it", fileKept: true, dirKept: true, alsoKept: "elsewhere/id", make: func(t *testing.T, root string) string {
			t.Helper()
			touch(t, root, "elsewhere/id")
			return link(t, "../../elsewhere/id", root, "config/ssh/id")
		}},
		{name: "directory of the key is a link to it", fileKept: true, dirKept: true, alsoKept: "config/ssh/id", make: func(t *testing.T, root string) string {
			t.Helper()
			touch(t, root, "config/ssh/id")
			return filepath.Join(link(t, "config/ssh", root, "keys"), "id")
		}},
		{name: "configuration directory reached by a link", fileKept: true, dirKept: true, alsoKept: "config/ssh/id", make: func(t *testing.T, root string) string {
			t.Helper()
			touch(t, root, "config/ssh/id")
			return filepath.Join(link(t, "config", root, "dotfiles"), "ssh/id")
		}},
		{name: "dots", fileKept: true, dirKept: true, alsoKept: "config/ssh/id", make: func(t *testing.T, root string) string {
			t.Helper()
			touch(t, root, "config/ssh/id")
			return root + "/config/../config/ssh/./x/../id"
		}},
		{name: "dots after a link", fileKept: true, dirKept: true, alsoKept: "config/ssh/id", make: func(t *testing.T, root string) string {
			t.Helper()
			touch(t, root, "config/ssh/id")
			touch(t, root, "config/ssh/sub/x")
			// Lexically this is root/id; really it is config/ssh/id.
			return link(t, "config/ssh/sub", root, "inner") + "/../id"
		}},
		{name: "relative", fileKept: true, dirKept: true, alsoKept: "config/ssh/id", relativeToRoot: true, make: func(t *testing.T, root string) string {
			t.Helper()
			return touch(t, root, "config/ssh/id")
		}},
		{name: "loop of links", fileKept: true, dirKept: true, make: func(t *testing.T, root string) string {
			t.Helper()
			link(t, "b", root, "a")
			return link(t, "a", root, "b")
		}},
		{name: "no key configured", fileKept: true, dirKept: true, make: func(*testing.T, string) string { return "" }},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			root := filepath.Join(t.TempDir(), "home")
			touch(t, root, "config/ssh/ssh_config")
			key := test.make(t, root)
			if test.relativeToRoot {
				working, err := os.Getwd()
				if err != nil {
					t.Fatal(err)
				}
				if key, err = filepath.Rel(working, key); err != nil {
					t.Fatal(err)
				}
			}
			RemoveLegacyConfig(t.Context(), filepath.Join(root, "config"), key, slog.New(slog.DiscardHandler))
			exists(t, root, "config/ssh/ssh_config", test.fileKept)
			exists(t, root, "config/ssh", test.dirKept)
			exists(t, root, "config", true)
			if test.alsoKept != "" {
				exists(t, root, test.alsoKept, true)
			}
		})
	}
}

func TestRemoveLegacyConfigLeavesLinks(t *testing.T) {
	t.Parallel()
	log := slog.New(slog.DiscardHandler)

	root := t.TempDir()
	touch(t, root, "dot-ssh/ssh_config")
	touch(t, root, "config/config.toml")
	link(t, "../dot-ssh", root, "config/ssh")
	RemoveLegacyConfig(t.Context(), filepath.Join(root, "config"), filepath.Join(root, "key"), log)
	exists(t, root, "dot-ssh/ssh_config", true)
	exists(t, root, "config/ssh", true)

	root = t.TempDir()
	touch(t, root, "mine")
	touch(t, root, "config/ssh/x")
	link(t, "../../mine", root, "config/ssh/ssh_config")
	RemoveLegacyConfig(t.Context(), filepath.Join(root, "config"), filepath.Join(root, "key"), log)
	exists(t, root, "config/ssh/ssh_config", true)
	exists(t, root, "mine", true)

	// Nothing to do is no error and makes nothing.
	root = t.TempDir()
	RemoveLegacyConfig(t.Context(), filepath.Join(root, "config"), filepath.Join(root, "key"), log)
	exists(t, root, "config", false)
}

func touch(t *testing.T, root, name string) string {
	t.Helper()
	path := filepath.Join(root, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("content\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func link(t *testing.T, target, root, name string) string {
	t.Helper()
	path := filepath.Join(root, name)
	if err := os.Symlink(target, path); err != nil {
		t.Fatal(err)
	}
	return path
}

func exists(t *testing.T, root, name string, want bool) {
	t.Helper()
	_, err := os.Lstat(filepath.Join(root, name))
	if got := err == nil; got != want {
		t.Errorf("%s exists: %v, want %v", name, got, want)
	}
}
