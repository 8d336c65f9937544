package image

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"

	"banger/internal/api"
	"banger/internal/progress"
)

func TestRegisterDirectory(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("tar"); err != nil {
		t.Skip("SKIPPED: no tar")
	}
	top := t.TempDir()
	root, aside := filepath.Join(top, "root"), filepath.Join(top, "aside")
	if err := errors.Join(os.MkdirAll(filepath.Join(root, "real"), 0o700), os.Mkdir(aside, 0o700),
		os.Symlink(root, filepath.Join(top, "link")), os.Symlink(filepath.Join(root, "real"), filepath.Join(aside, "into"))); err != nil {
		t.Fatal(err)
	}
	register := func(cache, rootFS string) (Image, error) {
		t.Helper()
		s, err := Open(filepath.Join(aside, "images"), Options{CacheDir: cache})
		if err != nil {
			t.Fatal(err)
		}
		return s.Register(t.Context(), api.Register{Name: "mine", RootFS: rootFS}, progress.Discard)
	}
	for _, test := range [][2]string{
		{root, root},
		{filepath.Join(root, "not/there"), root},
		{filepath.Join(root, "cache"), filepath.Join(top, "link")},
		{filepath.Join(aside, "into", "cache"), root},
	} {
		_, err := register(test[0], test[1])
		if told, ok := errors.AsType[*api.Error](err); !ok || told.Kind != api.KindUsage || !strings.Contains(told.Message, "banger itself writes") {
			t.Errorf("%q, of a cache %q: %v", test[1], test[0], err)
		}
	}
	_, err := register("relative", root)
	if told, ok := errors.AsType[*api.Error](err); !ok || told.Kind == api.KindUsage {
		t.Errorf("of a cache nobody knows where: %v", err)
	}
	image, err := register(filepath.Join(aside, "cache"), filepath.Join(top, "link"))
	if err != nil {
		t.Fatal(err)
	}
	if image.Source["from"] != "directory" || image.Source["name"] != "link" {
		t.Errorf("source %v", image.Source)
	}
	if said, err := json.Marshal(image.Manifest); err != nil || strings.Contains(string(said), top) {
		t.Errorf("the image tells where it was: %s, %v", said, err)
	}
}

// TestDigestOfTheSameContent makes images of one directory on two days: the
// digest is that of what is in it, not of when it was made.
func TestDigestOfTheSameContent(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("tar"); err != nil {
		t.Skip("SKIPPED: no tar")
	}
	root := t.TempDir()
	if err := os.WriteFile(filepath.Join(root, "file"), []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	register := func(t *testing.T, name string) string {
		t.Helper()
		dir := t.TempDir()
		s, err := Open(filepath.Join(dir, "images"), Options{CacheDir: filepath.Join(dir, "cache")})
		if err != nil {
			t.Fatal(err)
		}
		image, err := s.Register(t.Context(), api.Register{Name: name, RootFS: root}, progress.Discard)
		if err != nil {
			t.Fatal(err)
		}
		return image.Digest
	}
	var long string
	synctest.Test(t, func(t *testing.T) { long = register(t, "one") }) // where it is the year 2000
	if now := register(t, "another"); now != long {
		t.Errorf("the digests are %s and %s", long, now)
	}
}

// TestPackDirectoryIsBounded has a tar that complains about each of many files.
func TestPackDirectoryIsBounded(t *testing.T) {
	dir := t.TempDir()
	script := "#!/bin/sh\n{ echo tar: ./a: cannot open; head -c 64000000 /dev/zero; } >&2\nexit 2\n"
	if err := os.WriteFile(filepath.Join(dir, "tar"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	stream, err := packDirectory(t.Context(), dir)
	if err == nil {
		_, err = io.Copy(io.Discard, stream)
		err = errors.Join(err, stream.Close())
	}
	runtime.ReadMemStats(&after)
	if err == nil || err.Error() != "tar: ./a: cannot open" {
		t.Errorf("%v, want what was said first", err)
	}
	if grown := after.TotalAlloc - before.TotalAlloc; grown > 16<<20 {
		t.Errorf("it took %d bytes", grown)
	}
}
