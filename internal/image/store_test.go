package image

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"banger/internal/api"
	"banger/internal/progress"
)

func TestUnknownNames(t *testing.T) {
	t.Parallel()
	s, err := Open(filepath.Join(t.TempDir(), "images"), Options{})
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		what string
		do   func() error
		hint string
	}{
		{"pull", func() error { _, err := s.Pull(t.Context(), "plan9", progress.Discard); return err }, "debian-bookworm"},
		{"pull of no name at all", func() error { _, err := s.Pull(t.Context(), "../x", progress.Discard); return err }, "debian-bookworm"},
		{"get", func() error { _, err := s.Get("plan9"); return err }, "banger image list"},
		{"get of what could be pulled", func() error { _, err := s.Get("debian-bookworm"); return err }, "banger image pull debian-bookworm"},
		{"delete", func() error { return s.Delete(t.Context(), "plan9") }, "banger image list"},
	} {
		told, ok := errors.AsType[*api.Error](test.do())
		if !ok || told.Kind != api.KindNotFound || !strings.Contains(told.Hint, test.hint) {
			t.Errorf("%s: got %+v, want not_found with a hint of %q", test.what, told, test.hint)
		}
	}
	if list, err := s.List(); err != nil || len(list) != 0 {
		t.Errorf("list of an empty store: %v, %v", list, err)
	}
	available := s.Available()
	if len(available) != 2 || available[0].Name != "debian-bookworm" || available[0].Present || available[0].Kernel == "" {
		t.Errorf("available: %+v", available)
	}
}

// A name is looked at before what is to have it.
func TestImportOfABadName(t *testing.T) {
	t.Parallel()
	s, err := Open(filepath.Join(t.TempDir(), "images"), Options{CacheDir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	archive := filepath.Join(t.TempDir(), "x.tar")
	if err := os.WriteFile(archive, []byte("no archive"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]api.Kind{"a:b": api.KindUsage, "debian-bookworm": api.KindExists} {
		_, err := s.Import(t.Context(), api.Import{Path: archive, Name: name}, progress.Discard)
		if told, ok := errors.AsType[*api.Error](err); !ok || told.Kind != want {
			t.Errorf("%s: got %v, want kind %q", name, err, want)
		}
	}
}

// tree is an archive as mmdebstrap makes it, with init and dpkg's database.
func tree(t *testing.T) *bytes.Buffer {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	add := func(header tar.Header, data string) {
		header.Size = int64(len(data))
		if err := w.WriteHeader(&header); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, data); err != nil {
			t.Fatal(err)
		}
	}
	add(tar.Header{Name: "./", Typeflag: tar.TypeDir, Mode: 0o755}, "")
	add(tar.Header{Name: "./usr/bin/su", Typeflag: tar.TypeReg, Mode: 0o4755}, "#!")
	add(tar.Header{Name: "./sbin/init", Typeflag: tar.TypeSymlink, Linkname: "/lib/systemd/systemd", Mode: 0o777}, "")
	add(tar.Header{Name: "./var/lib/dpkg/status", Typeflag: tar.TypeReg, Mode: 0o644}, `Package: two
Status: install ok installed
Version: 2.0-1
Description: more
 Version: not this

Package: removed
Status: deinstall ok config-files
Version: 1.0

Package: one
Status: install ok installed
Version: 1:1.0
`)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return &buf
}

func TestStore(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	found, err := store(dir, tree(t), progress.Discard)
	if err != nil {
		t.Fatal(err)
	}
	want := []pkg{{"one", "1:1.0"}, {"two", "2.0-1"}}
	if diff := cmp.Diff(want, found.packages, cmp.AllowUnexported(pkg{})); diff != "" {
		t.Errorf("packages (-want +got):\n%s", diff)
	}
	if err := found.check(&Definition{Init: "/sbin/init", Packages: []string{"one", "two"}}); err != nil {
		t.Error(err)
	}
	if err := found.check(&Definition{Packages: []string{"removed"}}); err == nil || !strings.Contains(err.Error(), `"removed"`) {
		t.Errorf("a package that is not there: got error %v", err)
	}
	if err := (contents{}).check(&Definition{Init: "/sbin/init"}); err == nil {
		t.Error("a tree without init passed for one with it")
	}
	image, err := os.ReadFile(filepath.Join(dir, rootDisk))
	if err != nil {
		t.Fatal(err)
	}
	if len(image) < 2048 || image[1024+0x38] != 0x53 || image[1024+0x39] != 0xef {
		t.Error("the root disk is no ext4 file system")
	}
}

// A build that dies in the middle of the archive must not look like one that
// ended.
func TestStoreOfHalfATree(t *testing.T) {
	t.Parallel()
	whole := tree(t).Bytes()
	cause := errors.New("the build was killed")
	for _, n := range []int{0, 100, 700, 2048, len(whole) - 1024} {
		_, err := store(t.TempDir(), io.MultiReader(bytes.NewReader(whole[:n]), failing{cause}), progress.Discard)
		if !errors.Is(err, cause) {
			t.Errorf("after %d bytes: got error %v, want %v", n, err, cause)
		}
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

func TestPullError(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		err  error
		kind api.Kind
	}{
		{context.Canceled, api.KindCanceled},
		{&os.PathError{Op: "write", Path: "x", Err: os.ErrPermission}, api.KindInternal},
		{errors.New("dpkg: error: No space left on device"), api.KindNoSpace},
		{&api.Error{Kind: api.KindState, Message: "m"}, api.KindState},
	} {
		told, ok := errors.AsType[*api.Error](pullError("x", test.err))
		if !ok || told.Kind != test.kind {
			t.Errorf("%v: got %+v, want kind %q", test.err, told, test.kind)
		}
	}
}

func TestNeedSpace(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := needSpace("x", dir, 1); err != nil {
		t.Error(err)
	}
	told, ok := errors.AsType[*api.Error](needSpace("x", dir, 1<<60))
	if !ok || told.Kind != api.KindNoSpace || !strings.Contains(told.Message, dir) || told.Hint == "" {
		t.Errorf("got %+v, want no_space, the directory and a hint", told)
	}
}
