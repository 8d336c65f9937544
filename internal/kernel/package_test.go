package kernel

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"banger/internal/api"
	"banger/internal/progress"
	"banger/internal/tool"
)

// The directories of this package are not writable.
func TestImportOfPackage(t *testing.T) {
	t.Parallel()
	needTools(t, "depmod", "dpkg-deb")
	root := installedKernel(t)
	write(t, filepath.Join(root, "DEBIAN/control"), []byte("Package: linux-image-test\nVersion: 1-2\nArchitecture: amd64\nMaintainer: nobody\nDescription: test\n"))
	chmodTree(t, root, 0o555)
	chmod(t, filepath.Join(root, "DEBIAN"), 0o755)
	t.Cleanup(func() { chmodTree(t, root, 0o755) })
	deb := filepath.Join(t.TempDir(), "linux-image-test_1_amd64.deb")
	cmd := exec.CommandContext(t.Context(), "dpkg-deb", "--root-owner-group", "--build", root, deb)
	if said, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, said)
	}

	work := t.TempDir()
	if _, _, err := takePackage(t.Context(), api.Import{Path: deb}, work, progress.Discard); err != nil {
		t.Fatal(err)
	}
	if err := filepath.WalkDir(filepath.Join(work, "lib"), func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.IsDir() {
			return err
		}
		info, err := entry.Info()
		if err == nil && info.Mode().Perm() != 0o700 {
			t.Errorf("%s has mode %v", path, info.Mode())
		}
		return err
	}); err != nil {
		t.Error(err)
	}

	dir := t.TempDir()
	s := New(Options{Dir: filepath.Join(dir, "store"), CacheDir: dir})
	kernel, err := s.Import(t.Context(), api.Import{Path: deb}, progress.Discard)
	if err != nil {
		t.Fatal(err)
	}
	source := kernel.Manifest.Source
	if len(source.SHA256) != 64 {
		t.Errorf("digest %q", source.SHA256)
	}
	source.SHA256 = ""
	if diff := cmp.Diff(Source{Package: "linux-image-test", PackageVersion: "1-2"}, source); diff != "" || kernel.Name != "linux-image-test" {
		t.Errorf("%q: %s", kernel.Name, diff)
	}
	if left, err := os.ReadDir(filepath.Join(dir, "store", "tmp")); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

func chmod(t *testing.T, path string, mode os.FileMode) {
	t.Helper()
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
}

// chmodTree gives all directories the mode.
func chmodTree(t *testing.T, root string, mode os.FileMode) {
	t.Helper()
	if err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.IsDir() {
			return err
		}
		return os.Chmod(path, mode)
	}); err != nil {
		t.Fatal(err)
	}
}

func TestExtract(t *testing.T) {
	t.Parallel()
	at := time.Unix(1e9, 0)
	reg := func(name string) *tar.Header {
		return &tar.Header{Typeflag: tar.TypeReg, Name: name, Size: 1, Mode: 0o400, ModTime: at}
	}
	huge := reg("./boot/sparse")
	huge.Size = maxPackage + 1
	for name, test := range map[string]struct {
		headers []*tar.Header
		files   []string
		fails   string
	}{
		"a kernel": {
			[]*tar.Header{reg("./boot/vmlinuz-1"), {Typeflag: tar.TypeDir, Name: "./lib/modules/1/", Mode: 0o555}, reg("./lib/modules/1/a.ko"), reg("usr/lib/modules/1/b.ko"), reg("./etc/passwd")},
			[]string{"boot/vmlinuz-1", "lib/modules/1/a.ko", "usr/lib/modules/1/b.ko"},
			"",
		},
		"links": {
			[]*tar.Header{
				{Typeflag: tar.TypeSymlink, Name: "./boot", Linkname: "/tmp"},
				{Typeflag: tar.TypeSymlink, Name: "./lib/modules/1", Linkname: "/etc"},
				{Typeflag: tar.TypeLink, Name: "./boot/vmlinuz-1", Linkname: "/etc/passwd"},
				{Typeflag: tar.TypeFifo, Name: "./boot/vmlinuz-2"},
				reg("./boot/config"),
			},
			[]string{"boot/config"},
			"",
		},
		"dots":     {[]*tar.Header{reg("./boot/../../x")}, nil, `"./boot/../../x"`},
		"absolute": {[]*tar.Header{reg("/boot/x")}, nil, `"/boot/x"`},
		"twice":    {[]*tar.Header{reg("boot/x"), reg("boot/x")}, []string{"boot/x"}, "exists"},
		"huge":     {[]*tar.Header{huge}, nil, "more than 2048 MiB"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var archive bytes.Buffer
			w := tar.NewWriter(&archive)
			for _, header := range test.headers {
				if err := w.WriteHeader(header); err != nil {
					t.Fatal(err)
				}
				if header.Size > 0 {
					if _, err := w.Write([]byte("x")); err != nil {
						t.Fatal(err)
					}
				}
			}
			if test.fails == "" {
				if err := w.Close(); err != nil {
					t.Fatal(err)
				}
			}
			dir := t.TempDir()
			root, err := os.OpenRoot(dir)
			if err != nil {
				t.Fatal(err)
			}
			defer root.Close()
			err = extract(t.Context(), &archive, root)
			if test.fails == "" && err != nil || test.fails != "" && (err == nil || !strings.Contains(err.Error(), test.fails)) {
				t.Errorf("error %v, want %q", err, test.fails)
			}
			var files []string
			if err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
				if err != nil || entry.IsDir() {
					return err
				}
				name, err := filepath.Rel(dir, path)
				files = append(files, name)
				if info, statErr := entry.Info(); statErr == nil && !info.ModTime().Equal(at) {
					t.Errorf("%s is of %v", name, info.ModTime())
				}
				return err
			}); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.files, files); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// Whatever an archive has, only files and directories come of it, in their places.
func FuzzExtractPackage(f *testing.F) {
	var archive bytes.Buffer
	if err := writeArchive(&archive, []file{{name: "./boot/"}, {name: "./boot/vmlinuz-1", content: []byte("x")}, {name: "./lib", link: "/tmp"}, {name: "./lib/modules/1/a.ko", content: []byte("x")}}); err != nil {
		f.Fatal(err)
	}
	f.Add(archive.Bytes())
	f.Add(bytes.ReplaceAll(archive.Bytes(), []byte("./boot/vm"), []byte("../../../")))
	f.Fuzz(func(t *testing.T, archive []byte) {
		dir := t.TempDir()
		root, err := os.OpenRoot(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer root.Close()
		_ = extract(t.Context(), bytes.NewReader(archive), root) // mostly it is damaged
		if err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
			if err == nil && !entry.IsDir() && !entry.Type().IsRegular() {
				t.Errorf("%q is %v", path, entry.Type())
			}
			if name, relErr := filepath.Rel(dir, path); err == nil && !entry.IsDir() && (relErr != nil || !ofKernel(name)) {
				t.Errorf("%q is no place of a kernel: %v", name, relErr)
			}
			return err
		}); err != nil {
			t.Error(err)
		}
	})
}

func TestPackageIsBounded(t *testing.T) {
	t.Parallel()
	r := &boundedReader{strings.NewReader("four"), 3}
	if n, err := r.Read(make([]byte, 3)); n != 3 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	if _, err := r.Read(make([]byte, 3)); !errors.Is(err, errPackageSize) {
		t.Errorf("error %v", err)
	}
}

// What the unpacking has started ends with it.
func TestUnpackingIsCanceled(t *testing.T) {
	dir := t.TempDir()
	script := "#!/bin/sh\nsleep 40 | sleep 40\n"
	if err := os.WriteFile(filepath.Join(dir, "dpkg-deb"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "x.deb"), nil)
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	began := time.Now()
	_, _, err := takePackage(ctx, api.Import{Path: filepath.Join(dir, "x.deb")}, t.TempDir(), progress.Discard)
	if took := time.Since(began); !errors.Is(err, context.DeadlineExceeded) || took > 30*time.Second {
		t.Errorf("error %v after %v", err, took)
	}
}

// A kernel that is installed needs nothing of Debian.
func TestImportWithoutTools(t *testing.T) {
	bin := t.TempDir()
	for _, name := range []string{"sh", "depmod"} {
		needProgram(t, name, bin)
	}
	t.Setenv("PATH", bin)
	dir := t.TempDir()
	s := New(Options{Dir: filepath.Join(dir, "store"), CacheDir: dir})
	if _, err := s.Import(t.Context(), api.Import{Path: installedKernel(t), Name: "a"}, progress.Discard); err != nil {
		t.Error(err)
	}
	deb := filepath.Join(dir, "a.deb")
	write(t, deb, []byte("no package"))
	_, err := s.Import(t.Context(), api.Import{Path: deb, Name: "b"}, progress.Discard)
	wantKind(t, "a package", err, api.KindState, "install dpkg")
	if err == nil || !strings.HasPrefix(err.Error(), "cannot import ") {
		t.Errorf("error %v", err)
	}
}

// needProgram links to a program from the directory.
func needProgram(t *testing.T, name, dir string) {
	t.Helper()
	path, err := tool.Find(name)
	if err != nil {
		t.Skip("SKIPPED: no " + name)
	}
	if err := os.Symlink(path, filepath.Join(dir, name)); err != nil {
		t.Fatal(err)
	}
}
