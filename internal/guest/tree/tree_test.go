package tree

import (
	"archive/tar"
	"bytes"
	"io"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func stream(tb testing.TB, headers ...tar.Header) *bytes.Buffer {
	tb.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		content := ""
		if h.Typeflag == tar.TypeReg {
			content = "content"
			h.Size = int64(len(content))
		}
		if err := w.WriteHeader(&h); err != nil {
			tb.Fatal(err)
		}
		if _, err := io.WriteString(w, content); err != nil {
			tb.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	return &b
}

// newRoot returns a root with something outside of it to reach for.
func newRoot(tb testing.TB) (root *os.Root, dir, secret string) {
	tb.Helper()
	top := tb.TempDir()
	dir = filepath.Join(top, "root")
	secret = filepath.Join(top, "secret")
	if err := os.Mkdir(dir, 0o755); err != nil {
		tb.Fatal(err)
	}
	if err := os.WriteFile(secret, []byte("secret"), 0o600); err != nil {
		tb.Fatal(err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { root.Close() })
	return root, dir, secret
}

func TestUnpackStaysInside(t *testing.T) {
	t.Parallel()
	for name, headers := range map[string][]tar.Header{
		"dots":                 {{Name: "../secret", Typeflag: tar.TypeReg, Mode: 0o644}},
		"absolute":             {{Name: "/../../secret", Typeflag: tar.TypeReg, Mode: 0o644}},
		"through a link":       {{Name: "up", Typeflag: tar.TypeSymlink, Linkname: ".."}, {Name: "up/secret", Typeflag: tar.TypeReg, Mode: 0o644}},
		"onto a link":          {{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "../secret"}, {Name: "l", Typeflag: tar.TypeReg, Mode: 0o644}},
		"a hard link":          {{Name: "h", Typeflag: tar.TypeLink, Linkname: "../secret"}},
		"a hard link by link":  {{Name: "up", Typeflag: tar.TypeSymlink, Linkname: ".."}, {Name: "h", Typeflag: tar.TypeLink, Linkname: "up/secret"}},
		"a directory's mode":   {{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "../secret"}, {Name: "l", Typeflag: tar.TypeDir, Mode: 0o777}},
		"the root's own place": {{Name: "..", Typeflag: tar.TypeDir, Mode: 0o777}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			root, dir, secret := newRoot(t)
			// An error or not: what counts is what is outside.
			_ = Unpack(root, stream(t, headers...), false)
			b, err := os.ReadFile(secret)
			if err != nil || string(b) != "secret" {
				t.Errorf("the secret is %q, %v", b, err)
			}
			info, err := os.Stat(secret)
			if err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("the secret is %v, %v", info, err)
			}
			if _, err := os.Lstat(filepath.Join(dir, "h")); err == nil {
				t.Error("the secret has another name")
			}
			entries, err := os.ReadDir(filepath.Dir(dir))
			if err != nil || len(entries) != 2 {
				t.Errorf("outside: %v, %v", entries, err)
			}
		})
	}
}

func TestUnpack(t *testing.T) {
	t.Parallel()
	root, dir, _ := newRoot(t)
	when := time.Unix(1_600_000_000, 0)
	headers := []tar.Header{
		{Name: "./", Typeflag: tar.TypeDir, Mode: 0o700},
		{Name: "sealed/", Typeflag: tar.TypeDir, Mode: 0o500, ModTime: when},
		{Name: "sealed/file", Typeflag: tar.TypeReg, Mode: 0o4755, ModTime: when},
		{Name: "missing/parents/file", Typeflag: tar.TypeReg, Mode: 0o600},
		{Name: "fifo", Typeflag: tar.TypeFifo, Mode: 0o600},
	}
	t.Cleanup(func() { _ = os.Chmod(filepath.Join(dir, "sealed"), 0o700) })
	if err := Unpack(root, stream(t, headers...), false); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]os.FileMode{
		".": os.ModeDir | 0o700, "sealed": os.ModeDir | 0o500, "sealed/file": os.ModeSetuid | 0o755,
		"missing/parents/file": 0o600, "fifo": os.ModeNamedPipe | 0o600,
	} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || info.Mode() != want {
			t.Errorf("%s: got %v, %v, want %v", name, info, err, want)
		}
	}
	if info, err := os.Stat(filepath.Join(dir, "sealed")); err != nil || !info.ModTime().Equal(when) {
		t.Errorf("the directory's time: %v, %v", info, err)
	}
	if err := Unpack(root, stream(t, tar.Header{Name: "null", Typeflag: tar.TypeChar}), false); err == nil {
		t.Error("a device was made")
	}
}

func TestPackAndUnpack(t *testing.T) {
	t.Parallel()
	from, fromDir, _ := newRoot(t)
	to, toDir, _ := newRoot(t)
	if err := os.MkdirAll(filepath.Join(fromDir, "a/b"), 0o751); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(fromDir, "a/b/c"), []byte("text"), 0o640); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(filepath.Join(fromDir, "a/b/c"), filepath.Join(fromDir, "d")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("../../secret", filepath.Join(fromDir, "a/l")); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if err := Pack(from, ".", &b); err != nil {
		t.Fatal(err)
	}
	if err := Unpack(to, &b, false); err != nil {
		t.Fatal(err)
	}
	one, err1 := os.Stat(filepath.Join(toDir, "a/b/c"))
	two, err2 := os.Stat(filepath.Join(toDir, "d"))
	if err1 != nil || err2 != nil || !os.SameFile(one, two) || one.Mode().Perm() != 0o640 {
		t.Errorf("the hard link: %v, %v, %v, %v", one, err1, two, err2)
	}
	if target, err := os.Readlink(filepath.Join(toDir, "a/l")); err != nil || target != "../../secret" {
		t.Errorf("the link: %q, %v", target, err)
	}
}

func FuzzUnpack(f *testing.F) {
	f.Add(stream(f, tar.Header{Name: "a/../../b", Typeflag: tar.TypeReg, Mode: 0o644}).Bytes())
	f.Add(stream(f, tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: "/"}, tar.Header{Name: "l/x", Typeflag: tar.TypeReg, Mode: 0o644}).Bytes())
	f.Fuzz(func(t *testing.T, b []byte) {
		root, dir, secret := newRoot(t)
		_ = Unpack(root, bytes.NewReader(b), false)
		if got, err := os.ReadFile(secret); err != nil || string(got) != "secret" {
			t.Errorf("the secret is %q, %v", got, err)
		}
		if entries, err := os.ReadDir(filepath.Dir(dir)); err != nil || len(entries) != 2 {
			t.Errorf("outside: %v, %v", entries, err)
		}
		// What forbids its own removal.
		_ = filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				return os.Chmod(path, 0o700)
			}
			return nil
		})
	})
}
