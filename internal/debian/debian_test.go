package debian

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"banger/internal/api"
	"banger/internal/progress"
)

func TestArguments(t *testing.T) {
	t.Parallel()
	got := arguments(Options{
		Suite: "bookworm", Variant: "minbase", Components: []string{"main", "contrib"}, Include: []string{"a", "b"},
		Mirror: "file:/srv", AptOptions: []string{`X "y"`}, DpkgOpts: []string{"path-exclude=/x/*"}, Skip: []string{"cleanup"},
		Scripts: []string{"echo 'it'"},
	}, []string{"--mode=unshare"}, "/tmp/it's/files.tar")
	want := []string{
		"--mode=unshare", "--format=tar", "--variant=minbase", "--components=main,contrib", "--include=a,b", "--skip=cleanup",
		`--aptopt=X "y"`, "--dpkgopt=path-exclude=/x/*",
		`--customize-hook=tar-in '/tmp/it'\''s/files.tar' /`,
		`--customize-hook=chroot "$1" /bin/sh -euc 'echo '\''it'\'''`,
		"--customize-hook=" + keepAptConfig,
		"bookworm", "-", "file:/srv",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("arguments (-want +got):\n%s", diff)
	}
}

// archive makes an archive with one small package, to be built from without a
// network, and returns the line that names it in a file of sources.
func archive(t *testing.T, dir string) string {
	t.Helper()
	source := filepath.Join(dir, "source")
	for name, data := range map[string]string{
		"DEBIAN/control": "Package: banger-test\nVersion: 1.0\nArchitecture: all\nMaintainer: nobody <nobody@example.org>\nDescription: a test\n",
		"usr/share/test": "hello\n",
	} {
		path := filepath.Join(source, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(data), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	deb := filepath.Join(dir, "banger-test.deb")
	if out, err := exec.CommandContext(t.Context(), "dpkg-deb", "--root-owner-group", "--build", source, deb).CombinedOutput(); err != nil {
		t.Fatalf("dpkg-deb: %v: %s", err, out)
	}
	control, err := exec.CommandContext(t.Context(), "dpkg-deb", "--field", deb).Output()
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(deb)
	if err != nil {
		t.Fatal(err)
	}
	index := fmt.Sprintf("%sFilename: ./banger-test.deb\nSize: %d\nSHA256: %x\n\n", control, len(data), sha256.Sum256(data))
	if err := os.WriteFile(filepath.Join(dir, "Packages"), []byte(index), 0o644); err != nil {
		t.Fatal(err)
	}
	return "deb [trusted=yes] copy:" + dir + " ./"
}

// TestBootstrap runs the real mmdebstrap on an archive of its own.
func TestBootstrap(t *testing.T) {
	t.Parallel()
	if err := Check(t.Context()); err != nil {
		t.Skipf("NOT TESTED: building from an archive: %v", err)
	}
	// Other users have to get there: t.TempDir is private.
	base, err := os.MkdirTemp("/var/tmp", "banger-test-") //nolint:usetesting // see above
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(base) })
	if err := os.Chmod(base, 0o755); err != nil {
		t.Fatal(err)
	}
	source := filepath.Join(base, "archive")
	opts := Options{
		Suite: "bookworm", Variant: "extract", Include: []string{"banger-test"}, Mirror: archive(t, source),
		TempDir: base,
	}
	leftovers := func(after string) {
		t.Helper()
		if found, _ := filepath.Glob(filepath.Join(base, workDirPrefix()+"*")); len(found) > 0 {
			t.Errorf("left over after %s: %q", after, found)
		}
	}

	var out bytes.Buffer
	if err := Bootstrap(t.Context(), opts, &out, progress.Discard); err != nil {
		t.Fatal(err)
	}
	found := make(map[string]string)
	for tr := tar.NewReader(&out); ; {
		header, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		found[header.Name] = fmt.Sprintf("%o %d:%d", header.Mode, header.Uid, header.Gid)
	}
	if got, want := found["./usr/share/test"], "644 0:0"; got != want {
		t.Errorf("the package's file is %q, want %q", got, want)
	}
	leftovers("a build")

	with := opts
	with.Scripts = []string{"true"}
	if err := Bootstrap(t.Context(), with, io.Discard, progress.Discard); err == nil {
		t.Error("scripts that would not be run are no error")
	}

	with = opts
	with.Include = []string{"nonesuch"}
	err = Bootstrap(t.Context(), with, io.Discard, progress.Discard)
	if err == nil || !strings.Contains(err.Error(), "Unable to locate package nonesuch") {
		t.Errorf("an unknown package: got error %v", err)
	}
	leftovers("an unknown package")

	// At each step: what exists then, and who owns it, differs.
	for _, step := range []string{"nothing", "running apt-get update", "creating tarball"} {
		ctx, cancel := context.WithCancel(t.Context())
		if step == "nothing" {
			cancel()
		}
		err := Bootstrap(ctx, opts, io.Discard, func(e progress.Event) {
			if e.Text == step {
				cancel()
			}
		})
		cancel()
		if !errors.Is(err, context.Canceled) {
			t.Errorf("canceled at %q: got error %v", step, err)
		}
		leftovers("cancel at " + step)
	}
}

func TestNoUserNamespaces(t *testing.T) {
	t.Parallel()
	told, ok := errors.AsType[*api.Error](noUserNamespaces("unshare: not permitted"))
	if !ok || told.Hint == "" || !strings.Contains(told.Message, "unshare: not permitted") {
		t.Errorf("got %+v, want the cause and a hint", told)
	}
}
