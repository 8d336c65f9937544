package filesync

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"banger/internal/config"
)

// write packs and returns each entry as "mode name content", and the warnings
// with the host's directory taken out of them.
func write(t *testing.T, dir string, entries ...config.FileSync) (packed, warnings []string) {
	t.Helper()
	var stream bytes.Buffer
	warn := func(text string) { warnings = append(warnings, strings.ReplaceAll(text, dir, "HOST")) }
	if err := Write(t.Context(), entries, &stream, warn); err != nil {
		t.Fatal(err)
	}
	reader := tar.NewReader(&stream)
	for {
		h, err := reader.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if h.Uid != 0 || h.Gid != 0 || h.ModTime.IsZero() {
			t.Errorf("%s: owner %d:%d, time %v", h.Name, h.Uid, h.Gid, h.ModTime)
		}
		content, err := io.ReadAll(reader)
		if err != nil {
			t.Fatal(err)
		}
		packed = append(packed, strings.TrimSpace(fmt.Sprintf("%04o %s %s", h.Mode, h.Name, content)))
	}
	slices.Sort(packed)
	slices.Sort(warnings)
	return packed, warnings
}

func put(t *testing.T, path, content string, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	err := os.WriteFile(path, []byte(content), 0o600)
	if err = errors.Join(err, os.Chmod(path, mode)); err != nil {
		t.Fatal(err)
	}
}

func link(t *testing.T, target, path string) {
	t.Helper()
	if err := os.Symlink(target, path); err != nil {
		t.Fatal(err)
	}
}

func TestWrite(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	put(t, filepath.Join(dir, "netrc"), "secret", 0o644)
	put(t, filepath.Join(dir, "tree/run"), "#!", 0o755)
	put(t, filepath.Join(dir, "tree/sub/a name\nof two lines"), "", 0o640)
	put(t, filepath.Join(dir, "outside"), "not to be seen", 0o600)
	if err := os.Chmod(filepath.Join(dir, "tree/sub"), 0o750); err != nil {
		t.Fatal(err)
	}
	link(t, "../outside", filepath.Join(dir, "tree/link"))
	link(t, "/", filepath.Join(dir, "tree/sub/up"))
	link(t, "tree", filepath.Join(dir, "tree-link"))
	link(t, "netrc", filepath.Join(dir, "netrc-link"))
	if err := syscall.Mkfifo(filepath.Join(dir, "tree/pipe"), 0o600); err != nil {
		t.Fatal(err)
	}
	packed, warnings := write(t, dir,
		config.FileSync{Host: filepath.Join(dir, "netrc-link"), Guest: "/root/.netrc", Mode: 0o600},
		config.FileSync{Host: filepath.Join(dir, "netrc"), Guest: "/root/open", Mode: 0o444},
		config.FileSync{Host: filepath.Join(dir, "tree-link"), Guest: "/root/.config/tree", Mode: 0o600},
		config.FileSync{Host: filepath.Join(dir, "none"), Guest: "/root/none"},
		config.FileSync{Host: filepath.Join(dir, "tree/pipe"), Guest: "/root/pipe"},
	)
	wantPacked := []string{
		"0444 open secret",
		"0600 .netrc secret",
		"0640 .config/tree/sub/a name\nof two lines",
		"0750 .config/tree/sub/",
		"0755 .config/tree/",
		"0755 .config/tree/run #!",
	}
	if diff := cmp.Diff(wantPacked, packed); diff != "" {
		t.Errorf("packed (-want +got):\n%s", diff)
	}
	wantWarnings := []string{
		`file_sync: "HOST/none" is not copied: no such file or directory`,
		`file_sync: "HOST/tree-link/link" is not copied: it is a symbolic link`,
		`file_sync: "HOST/tree-link/pipe" is not copied: it is neither a file nor a directory`,
		`file_sync: "HOST/tree-link/sub/up" is not copied: it is a symbolic link`,
		`file_sync: "HOST/tree/pipe" is not copied: it is neither a file nor a directory`,
	}
	if diff := cmp.Diff(wantWarnings, warnings); diff != "" {
		t.Errorf("warnings (-want +got):\n%s", diff)
	}
}

// What sshd wants of /root/.ssh holds whatever the host has.
func TestWriteSSH(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	put(t, filepath.Join(dir, "ssh/config"), "c", 0o644)
	put(t, filepath.Join(dir, "ssh/authorized_keys"), "k", 0o644)
	put(t, filepath.Join(dir, "ssh/sub/authorized_keys"), "k", 0o600)
	if err := os.Chmod(filepath.Join(dir, "ssh"), 0o777); err != nil {
		t.Fatal(err)
	}
	packed, warnings := write(t, dir, config.FileSync{Host: filepath.Join(dir, "ssh"), Guest: "/root/.ssh"})
	want := []string{"0600 .ssh/sub/authorized_keys k", "0644 .ssh/config c", "0700 .ssh/", "0755 .ssh/sub/"}
	if diff := cmp.Diff(want, packed); diff != "" {
		t.Errorf("packed (-want +got):\n%s", diff)
	}
	if len(warnings) != 1 || !strings.Contains(warnings[0], "HOST/ssh/authorized_keys") {
		t.Errorf("warnings %q", warnings)
	}
}

func TestWriteIsBounded(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	big := filepath.Join(dir, "big")
	put(t, big, "", 0o600)
	if err := os.Truncate(big, MaxBytes+1); err != nil {
		t.Fatal(err)
	}
	err := Write(t.Context(), []config.FileSync{{Host: big, Guest: "/root/big"}}, io.Discard, func(string) {})
	if err == nil || !strings.Contains(err.Error(), "4.0 GiB") || !strings.Contains(err.Error(), big) {
		t.Errorf("too many bytes: %v", err)
	}
	deep := filepath.Join(dir, "deep")
	if err := os.MkdirAll(deep+strings.Repeat("/d", maxDepth+1), 0o700); err != nil {
		t.Fatal(err)
	}
	err = Write(t.Context(), []config.FileSync{{Host: deep, Guest: "/root/deep"}}, io.Discard, func(string) {})
	if err == nil || !strings.Contains(err.Error(), "deep") {
		t.Errorf("too deep: %v", err)
	}
	links := filepath.Join(dir, "links")
	put(t, filepath.Join(links, "file"), "", 0o600)
	for i := range maxWarns + 5 {
		link(t, "file", filepath.Join(links, fmt.Sprintf("link%d", i)))
	}
	_, warnings := write(t, dir, config.FileSync{Host: links, Guest: "/root/links"})
	if len(warnings) != maxWarns+1 || !slices.Contains(warnings, "file_sync: 5 more of these") {
		t.Errorf("%d warnings: %q", len(warnings), warnings)
	}
	canceled, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("enough"))
	if err := Write(canceled, []config.FileSync{{Host: links, Guest: "/root/links"}}, io.Discard, func(string) {}); err == nil || !strings.Contains(err.Error(), "enough") {
		t.Errorf("canceled: %v", err)
	}
}
