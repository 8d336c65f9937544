package cli

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"banger/internal/progress"
)

// unpack writes a tar stream, as a guest would send it, to target.
func unpack(t *testing.T, stream []byte, base, target string, contents bool) error {
	t.Helper()
	in := tar.NewReader(bytes.NewReader(stream))
	first, err := in.Next()
	if err != nil {
		return err
	}
	u := unpacker{report: progress.Discard, base: base, contents: contents}
	err = u.run(t.Context(), &guestTree{Closer: io.NopCloser(nil), tar: in, first: first}, target)
	if u.root != nil {
		u.root.Close()
	}
	return err
}

func tarOf(tb testing.TB, headers ...tar.Header) []byte {
	tb.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for _, header := range headers {
		content := []byte("content of " + header.Name)
		if header.Typeflag == tar.TypeReg {
			header.Size = int64(len(content))
		}
		if header.Mode == 0 {
			header.Mode = 0o644
		}
		if err := w.WriteHeader(&header); err != nil {
			tb.Fatal(err)
		}
		if header.Typeflag == tar.TypeReg {
			if _, err := w.Write(content); err != nil {
				tb.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	return out.Bytes()
}

func dir(name string) tar.Header {
	return tar.Header{Name: name + "/", Typeflag: tar.TypeDir, Mode: 0o755}
}
func regularFile(name string) tar.Header { return tar.Header{Name: name, Typeflag: tar.TypeReg} }
func symlink(name, to string) tar.Header {
	return tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: to}
}

func TestUnpackTree(t *testing.T) {
	t.Parallel()
	stream := tarOf(t, dir("src"), regularFile("src/a"), symlink("src/l", "/nowhere"), dir("src/d"), regularFile("src/d/b"),
		tar.Header{Name: "src/h", Typeflag: tar.TypeLink, Linkname: "src/a"}, tar.Header{Name: "src/s", Typeflag: tar.TypeReg, Mode: 0o6755})
	for _, test := range []struct {
		name, target, want string
		contents           bool
	}{
		{"into a directory", ".", "src", false},
		{"as a new one", "new", "new", false},
		{"contents", ".", ".", true},
		{"contents as a new one", "new", "new", true},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			work := t.TempDir()
			if err := unpack(t, stream, "src", filepath.Join(work, test.target), test.contents); err != nil {
				t.Fatal(err)
			}
			for file, want := range map[string]string{"a": "content of src/a", "d/b": "content of src/d/b", "h": "content of src/a"} {
				if got, err := os.ReadFile(filepath.Join(work, test.want, file)); string(got) != want {
					t.Errorf("%s: %q, %v", file, got, err)
				}
			}
			if to, err := os.Readlink(filepath.Join(work, test.want, "l")); to != "/nowhere" {
				t.Errorf("the link leads to %q, %v", to, err)
			}
			info, err := os.Stat(filepath.Join(work, test.want, "s"))
			if err != nil {
				t.Fatal(err)
			}
			if info.Mode() != 0o755 {
				t.Errorf("mode %v: rights that a guest chose are given away", info.Mode())
			}
		})
	}
}

func TestUnpackFile(t *testing.T) {
	t.Parallel()
	work := t.TempDir()
	kept, link := filepath.Join(work, "kept"), filepath.Join(work, "link")
	for _, err := range []error{os.WriteFile(kept, []byte("old"), 0o600), os.Symlink("kept", link)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := unpack(t, tarOf(t, regularFile("f")), "f", link, false); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(kept); string(got) != "content of f" {
		t.Errorf("a link that the user names is not followed: %q, %v", got, err)
	}
	if err := unpack(t, tarOf(t, regularFile("f")), "f", os.DevNull, false); err == nil {
		t.Error("a device is replaced")
	}
	if err := unpack(t, tarOf(t, regularFile("f")), "f", filepath.Join(work, "none")+"/", false); err == nil {
		t.Error("a directory that does not exist is accepted")
	}
}

// hostile are streams that try to write outside of the target.
func hostile(tb testing.TB) map[string][]byte {
	tb.Helper()
	return map[string][]byte{
		"parent":              tarOf(tb, dir("src"), regularFile("src/../../planted")),
		"absolute":            tarOf(tb, dir("src"), regularFile("/planted")),
		"beside":              tarOf(tb, dir("src"), regularFile("planted")),
		"beside a file":       tarOf(tb, regularFile("src"), regularFile("planted")),
		"through a link":      tarOf(tb, dir("src"), symlink("src/l", ".."), regularFile("src/l/planted")),
		"through an absolute": tarOf(tb, dir("src"), symlink("src/l", "/"), regularFile("src/l/planted")),
		"hard link":           tarOf(tb, dir("src"), tar.Header{Name: "src/l", Typeflag: tar.TypeLink, Linkname: "../secret"}),
		"hard link to a link": tarOf(tb, dir("src"), symlink("src/s", "../.."), tar.Header{Name: "src/l", Typeflag: tar.TypeLink, Linkname: "src/s/secret"}),
		"mode of a link":      tarOf(tb, dir("src"), symlink("src/l", "../.."), dir("src/l")),
	}
}

// checkContained unpacks a stream that is not trusted and reports whether anything
// changed outside.
func checkContained(t *testing.T, stream []byte) error {
	t.Helper()
	work := t.TempDir()
	target, secret := filepath.Join(work, "home", "target"), filepath.Join(work, "secret")
	for _, err := range []error{os.MkdirAll(target, 0o700), os.WriteFile(secret, []byte("secret"), 0o600)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	err := unpack(t, stream, "src", target, false)
	var found []string
	walkErr := filepath.WalkDir(work, func(file string, _ fs.DirEntry, err error) error {
		if file == target || errors.Is(err, fs.ErrPermission) {
			return fs.SkipDir
		}
		if relative, relErr := filepath.Rel(work, file); relErr == nil {
			found = append(found, relative)
		}
		return err
	})
	if walkErr != nil {
		t.Fatal(walkErr)
	}
	if len(found) != 3 {
		t.Errorf("outside of the target there are %q", found)
	}
	if got, err := os.ReadFile(secret); string(got) != "secret" {
		t.Errorf("the file outside is %q, %v", got, err)
	}
	return err
}

func TestUnpackHostile(t *testing.T) {
	t.Parallel()
	for name, stream := range hostile(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if err := checkContained(t, stream); err == nil {
				t.Error("it was accepted")
			}
		})
	}
}

func FuzzUnpack(f *testing.F) {
	for _, stream := range hostile(f) {
		f.Add(stream)
	}
	f.Fuzz(func(t *testing.T, stream []byte) {
		// Whether it is an error does not matter.
		_ = checkContained(t, stream)
	})
}

// A link that an earlier copy brought from a guest does not lead a later one
// out of where it was told to go.
func TestUnpackIntoAnEarlierLink(t *testing.T) {
	t.Parallel()
	work := t.TempDir()
	outside := filepath.Join(work, "outside")
	if err := os.Mkdir(outside, 0o755); err != nil {
		t.Fatal(err)
	}
	target := filepath.Join(work, "target")
	if err := unpack(t, tarOf(t, dir("src"), symlink("src/next", outside)), "src", target, false); err != nil {
		t.Fatal(err)
	}
	if err := unpack(t, tarOf(t, dir("next"), regularFile("next/file")), "next", target, false); err == nil {
		t.Error("a directory was copied through the link")
	}
	if left, err := os.ReadDir(outside); err != nil || len(left) != 0 {
		t.Errorf("outside has %v, %v", left, err)
	}
}

func TestUnpackRepeatedDirectory(t *testing.T) {
	t.Parallel()
	in := tar.NewReader(bytes.NewReader(tarOf(t, dir("src"), dir("src/d"), dir("src/d"), dir("src"))))
	first, err := in.Next()
	if err != nil {
		t.Fatal(err)
	}
	u := unpacker{report: progress.Discard, base: "src"}
	if err := u.run(t.Context(), &guestTree{Closer: io.NopCloser(nil), tar: in, first: first}, filepath.Join(t.TempDir(), "new")); err != nil {
		t.Fatal(err)
	}
	defer u.root.Close()
	if len(u.dirs) != 2 {
		t.Errorf("%d directories are remembered, want 2", len(u.dirs))
	}
}
