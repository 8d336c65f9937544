package sshconfig_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"banger/internal/sshconfig"
)

const include = "/home/a user/.config/banger/ssh_config"

func must(t *testing.T, want bool) func(changed bool, err error) {
	t.Helper()
	return func(changed bool, err error) {
		t.Helper()
		if err != nil || changed != want {
			t.Fatalf("changed %v, %v, want changed %v", changed, err, want)
		}
	}
}

func TestRoundTrip(t *testing.T) {
	t.Parallel()
	for name, text := range map[string]string{
		"ordinary":             "Host a\n  User b\n",
		"empty":                "",
		"one line feed":        "\n",
		"no final line feed":   "Host a\n  User b",
		"CRLF":                 "Host a\r\n  User b\r\n",
		"CRLF, no final":       "Host a\r\n  User b",
		"NUL and bad UTF-8":    "# \x00\xff\n",
		"looks like the fence": "# >>> other >>>\n# <<< other <<<\n",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, mode := range []fs.FileMode{0o600, 0o644, 0o400} {
				path := filepath.Join(t.TempDir(), "config")
				if err := os.WriteFile(path, []byte(text), mode); err != nil {
					t.Fatal(err)
				}
				must(t, false)(sshconfig.Uninstall(path))
				must(t, true)(sshconfig.Install(path, include))
				must(t, false)(sshconfig.Install(path, include))
				got := readFile(t, path, mode)
				if !strings.HasSuffix(got, "\nInclude \""+include+"\"\n# <<< banger <<<\n"+text) {
					t.Errorf("after the installation: %q", got)
				}
				if installed, err := sshconfig.Installed(path, include); err != nil || !installed {
					t.Errorf("Installed: %v, %v", installed, err)
				}
				must(t, true)(sshconfig.Install(path, "/another"))
				if installed, err := sshconfig.Installed(path, include); err != nil || installed {
					t.Errorf("Installed of the old path: %v, %v", installed, err)
				}
				must(t, true)(sshconfig.Uninstall(path))
				if got := readFile(t, path, mode); got != text {
					t.Errorf("afterwards %q, want %q", got, text)
				}
				entries, err := os.ReadDir(filepath.Dir(path))
				if err != nil || len(entries) != 1 {
					t.Errorf("left behind: %v, %v", entries, err)
				}
			}
		})
	}
}

func readFile(t *testing.T, path string, mode fs.FileMode) string {
	t.Helper()
	info, err := os.Lstat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode() != mode {
		t.Errorf("mode %v, want %v", info.Mode(), mode)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestUserTextAboveStays(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "config")
	must(t, true)(sshconfig.Install(path, include))
	block := readFile(t, path, 0o600)
	if err := os.WriteFile(path, []byte("# mine\n"+block+"Host b"), 0o600); err != nil {
		t.Fatal(err)
	}
	must(t, true)(sshconfig.Install(path, "/another"))
	must(t, true)(sshconfig.Uninstall(path))
	if got := readFile(t, path, 0o600); got != "# mine\nHost b" {
		t.Errorf("afterwards %q", got)
	}
}

func TestFileMadeIsRemoved(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), ".ssh", "config")
	must(t, true)(sshconfig.Install(path, include))
	if info, err := os.Stat(filepath.Dir(path)); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("the directory: %v, %v", info, err)
	}
	must(t, true)(sshconfig.Install(path, "/another"))
	must(t, true)(sshconfig.Uninstall(path))
	if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the file is still there: %v", err)
	}
}

func TestLinkStaysLink(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	target := filepath.Join(dir, "dotfiles", "ssh")
	if err := os.MkdirAll(filepath.Dir(target), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(target, []byte("Host a\n"), 0o640); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(target, 0o640); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "config")
	if err := os.Symlink("dotfiles/ssh", path); err != nil {
		t.Fatal(err)
	}
	must(t, true)(sshconfig.Install(path, include))
	if to, err := os.Readlink(path); err != nil || to != "dotfiles/ssh" {
		t.Errorf("the link: %q, %v", to, err)
	}
	must(t, true)(sshconfig.Uninstall(path))
	if got := readFile(t, target, 0o640); got != "Host a\n" {
		t.Errorf("afterwards %q", got)
	}
}

func TestRefuses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "config")
	must(t, true)(sshconfig.Install(path, include))
	block := readFile(t, path, 0o600)
	for name, text := range map[string]string{
		"twice":       block + block,
		"no end":      strings.Replace(block, "# <<<", "# ...", 1),
		"no begin":    strings.Replace(block, "# >>>", "# ...", 1),
		"more inside": strings.Replace(block, "Include", "User x\nInclude", 1),
		"other":       strings.Replace(block, "Include", "Match", 1),
		"CRLF":        strings.ReplaceAll(block, "\n", "\r\n"),
		"not a line":  "x" + block,
	} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, installErr := sshconfig.Install(path, "/another")
		_, uninstallErr := sshconfig.Uninstall(path)
		for _, err := range []error{installErr, uninstallErr} {
			if err == nil || !strings.Contains(err.Error(), "by hand") {
				t.Errorf("%s: %v", name, err)
			}
		}
		if got := readFile(t, path, 0o600); got != text {
			t.Errorf("%s: the file became %q", name, got)
		}
	}
	if _, err := sshconfig.Install(dir, include); err == nil {
		t.Error("installed into a directory")
	}
	dangling := filepath.Join(dir, "dangling")
	if err := os.Symlink("nowhere", dangling); err != nil {
		t.Fatal(err)
	}
	if _, err := sshconfig.Install(dangling, include); err == nil {
		t.Error("installed into a dangling link")
	}
	for _, bad := range []string{"/a\nHost *", "/a\"b", "/${HOME}/x", "/a*"} {
		if _, err := sshconfig.Install(filepath.Join(dir, "new"), bad); err == nil {
			t.Errorf("%q was included", bad)
		}
	}
}
