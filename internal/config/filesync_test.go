package config

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestFileSync(t *testing.T) {
	t.Parallel()
	dirs := testDirs(t)
	write(t, dirs, `[[file_sync]]
host = "~/.netrc"
guest = "~/.netrc"

[[file_sync]]
host = "/etc/tool"
guest = "/root/.config//tool/"
mode = "0644"

[[file_sync]]
host = "/etc/x"
guest = "~/x"
mode = 0o700
`)
	got, err := Load(dirs)
	if err != nil {
		t.Fatal(err)
	}
	want := []FileSync{
		{Host: filepath.Join(dirs.Home, ".netrc"), Guest: "/root/.netrc", Mode: 0o600},
		{Host: "/etc/tool", Guest: "/root/.config/tool", Mode: 0o644},
		{Host: "/etc/x", Guest: "/root/x", Mode: 0o700},
	}
	if diff := cmp.Diff(want, got.FileSync); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestFileSyncRefused(t *testing.T) {
	t.Parallel()
	const first = "[[file_sync]]\nhost = \"/a\"\nguest = \"~/a\"\n"
	for text, want := range map[string][]string{
		"[[file_sync]]\nguest = \"~/a\"\n":                                     {":1: file_sync.host: entry 1: ", "missing"},
		"[[file_sync]]\nhost = \"/a\"\n":                                       {":1: file_sync.guest: entry 1 (\"/a\"): ", "missing"},
		first + "[[file_sync]]\nhost = \"a\"\nguest = \"~/a\"\n":               {":5: file_sync.host: entry 2 (\"a\"): ", "absolute"},
		first + "[[file_sync]]\nguest = \"/etc/a\"\nhost = \"/a\"\n":           {":5: file_sync.guest: entry 2 (\"/a\"): ", "/root/"},
		first + "\n[[file_sync]]\nhost = \"/b\"\n[vm_defaults]\nvcpu = 1\n":    {":5: file_sync.guest: entry 2 (\"/b\"): "},
		"[[file_sync]]\nhost = \"/a\"\nguest = \"~/\"\n":                       {":3: file_sync.guest: "},
		"[[file_sync]]\nhost = \"/a\"\nguest = \"/root\"\n":                    {":3: file_sync.guest: "},
		"[[file_sync]]\nhost = \"/a\"\nguest = \"~/../etc\"\n":                 {":3: file_sync.guest: "},
		"[[file_sync]]\nhost = \"/a\"\nguest = \"~/.ssh/./authorized_keys\"\n": {":3: file_sync.guest: ", "banger"},
		"[[file_sync]]\nhost = \"/a\"\nguest = \"~/a\"\nmode = \"rw\"\n":       {":4: file_sync.mode: "},
		"[[file_sync]]\nhost = \"/a\"\nguest = \"~/a\"\nmode = 600\n":          {":4: file_sync.mode: "},
		"[[file_sync]]\nhost = \"/a\"\nguest = \"~/a\"\nmode = -1\n":           {":4: file_sync.mode: "},
		"[[file_sync]]\nhost = \"/a\"\nguest = \"~/a\"\nmode = \"4755\"\n":     {":4: file_sync.mode: "},
		"[[file_sync]]\nhost = \"/a\"\nguest = \"~/a\"\nmode = true\n":         {":4: file_sync.mode: "},
		"[[file_sync]]\nhost = \"/a\"\nguest = \"~/a\"\nto = \"x\"\n":          {":4: file_sync.to: ", "unknown key"},
		"\nfile_sync = [{host = \"/a\", guest = \"/b\"}]\n":                    {":2: file_sync.guest: entry 1 (\"/a\"): "},
		"[file_sync]\nhost = \"/a\"\n":                                         {"file_sync"},
		"[[file_sync]]\nhost = 1\nguest = \"~/a\"\n":                           {":2: ", "host"},
	} {
		t.Run(text, func(t *testing.T) {
			t.Parallel()
			dirs := testDirs(t)
			write(t, dirs, text)
			got, err := Load(dirs)
			if err == nil {
				t.Fatalf("%q was taken as %+v", text, got.FileSync)
			}
			for _, want := range append(want, dirs.ConfigFile()) {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q: error %q does not contain %q", text, err, want)
				}
			}
		})
	}
}
