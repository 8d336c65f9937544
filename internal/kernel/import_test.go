package kernel

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"

	"banger/internal/api"
	"banger/internal/objects"
	"banger/internal/progress"
	"banger/internal/xz/xztest"
)

func needTools(t *testing.T, names ...string) {
	t.Helper()
	if err := checkTools(names...); err != nil {
		t.Skip("SKIPPED: ", err)
	}
}

func TestImportOfWhatIsNoPackage(t *testing.T) {
	t.Parallel()
	needTools(t, "depmod", "dpkg-deb")
	dir := t.TempDir()
	path := filepath.Join(dir, "linux_1_amd64.deb")
	if err := os.WriteFile(path, []byte("no package"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := New(Options{Dir: filepath.Join(dir, "store"), CacheDir: dir})
	_, err := s.Import(t.Context(), api.Import{Path: path}, progress.Discard)
	if err == nil || !strings.Contains(err.Error(), "dpkg-deb: error") {
		t.Errorf("error %v", err)
	}
	if left, err := filepath.Glob(filepath.Join(dir, "store", "*", "linux*@*")); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	_, err = s.Import(t.Context(), api.Import{Path: path, Name: "../x"}, progress.Discard)
	wantKind(t, "a bad name", err, api.KindUsage, "")
	_, err = s.Import(t.Context(), api.Import{Path: path, Modules: dir}, progress.Discard)
	wantKind(t, "modules of a package", err, api.KindUsage, "")
}

// TestComplaintsAreBounded has a package of which much is said.
func TestComplaintsAreBounded(t *testing.T) {
	dir := t.TempDir()
	script := "#!/bin/sh\n{ echo dpkg-deb: error: odd; head -c 64000000 /dev/zero; } >&2\nexit 2\n"
	if err := os.WriteFile(filepath.Join(dir, "dpkg-deb"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "x.deb"), nil)
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, _, err := takePackage(t.Context(), api.Import{Path: filepath.Join(dir, "x.deb")}, t.TempDir(), progress.Discard)
	runtime.ReadMemStats(&after)
	if err == nil || !strings.HasSuffix(err.Error(), ": dpkg-deb: error: odd") {
		t.Errorf("%v, want what was said first", err)
	}
	if grown := after.TotalAlloc - before.TotalAlloc; grown > 16<<20 {
		t.Errorf("it took %d bytes", grown)
	}
}

func write(t *testing.T, path string, data []byte) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, data, 0o600)); err != nil {
		t.Fatal(err)
	}
}

// compressed is data as a module may be.
func compressed(t *testing.T, data []byte, open func(io.Writer) (io.WriteCloser, error)) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := open(&b)
	if err != nil {
		t.Fatal(err)
	}
	_, err = w.Write(data)
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// installedKernel is the directory of one whose modules have no content.
func installedKernel(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	image, _ := testVmlinuz(t)
	modules := filepath.Join(root, "lib/modules", testVersion)
	write(t, filepath.Join(root, "boot", "vmlinuz-"+testVersion), image)
	write(t, filepath.Join(modules, "modules.builtin"), []byte(testBuiltin+"kernel/drivers/virtio/virtio_mmio.ko\nkernel/drivers/net/virtio_net.ko\n"))
	write(t, filepath.Join(modules, "modules.order"), nil)
	return root
}

func TestImportOfWhatIsInstalled(t *testing.T) {
	t.Parallel()
	needTools(t, "depmod")
	root := installedKernel(t)
	dir := t.TempDir()
	s := New(Options{Dir: filepath.Join(dir, "store"), CacheDir: dir})
	var warnings []string
	report := func(event progress.Event) {
		if event.Warning {
			warnings = append(warnings, event.Text)
		}
	}
	kernel, err := s.Import(t.Context(), api.Import{Path: root, Name: "whole"}, report)
	if err != nil {
		t.Fatal(err)
	}
	image := filepath.Join(root, "boot", "vmlinuz-"+testVersion)
	if info := kernel.Info(); info.Version != testVersion || !cmp.Equal(info.Source, map[string]string{"file": "vmlinuz-" + testVersion}) {
		t.Errorf("imported %+v", info)
	}
	if manifest := fmt.Sprintf("%+v", kernel.Manifest); strings.Contains(manifest, root) {
		t.Errorf("it tells of this host: %s", manifest)
	}
	_, vmlinux := testVmlinuz(t)
	wantFile(t, kernel.Vmlinux(), vmlinux)
	if len(warnings) != 2 || !strings.Contains(warnings[0], "FUSE (CONFIG_FUSE_FS)") || !strings.Contains(warnings[1], "not known") {
		t.Errorf("warnings %q", warnings)
	}
	again, err := s.Import(t.Context(), api.Import{Path: image}, progress.Discard)
	if err != nil || again.Name != "linux-"+testVersion || again.Digest != kernel.Digest {
		t.Errorf("by its image: %+v, %v", again, err)
	}
	_, err = s.Import(t.Context(), api.Import{Path: image}, progress.Discard)
	wantKind(t, "twice", err, api.KindExists, "--name")

	other := filepath.Join(t.TempDir(), "6.13")
	write(t, filepath.Join(other, "modules.builtin"), nil)
	_, err = s.Import(t.Context(), api.Import{Path: image, Name: "a", Modules: other}, progress.Discard)
	wantKind(t, "modules of another kernel", err, api.KindUsage, "called as the kernel's version")
	config := filepath.Join(t.TempDir(), "config")
	write(t, config, []byte("CONFIG_ACPI=y\n"))
	_, err = s.Import(t.Context(), api.Import{Path: image, Name: "a", Config: config}, progress.Discard)
	wantKind(t, "without what VMs need", err, api.KindState, "built in or as modules")
	if err == nil || !strings.Contains(err.Error(), "initramfs (CONFIG_BLK_DEV_INITRD, ") {
		t.Errorf("error %v", err)
	}
	lonely := filepath.Join(t.TempDir(), "boot", "vmlinuz-6")
	write(t, lonely, nil)
	_, err = s.Import(t.Context(), api.Import{Path: lonely, Name: "a"}, progress.Discard)
	wantKind(t, "no modules", err, api.KindUsage, "--modules")
	_, err = s.Import(t.Context(), api.Import{Path: t.TempDir(), Name: "a"}, progress.Discard)
	wantKind(t, "an empty directory", err, api.KindUsage, "boot/")
	write(t, filepath.Join(root, "boot", "vmlinuz-6"), nil)
	_, err = s.Import(t.Context(), api.Import{Path: root, Name: "a"}, progress.Discard)
	wantKind(t, "two kernels", err, api.KindUsage, "vmlinuz-6, ")
	if left, err := os.ReadDir(filepath.Join(dir, "store", "tmp")); err != nil || len(left) > 0 {
		t.Errorf("left: %v, %v", left, err)
	}
}

func TestCopyModules(t *testing.T) {
	t.Parallel()
	from, to := t.TempDir(), filepath.Join(t.TempDir(), "to")
	module := []byte("\x7fELF module")
	for name, data := range map[string][]byte{
		"kernel/a.ko":       module,
		"kernel/b.ko.gz":    compressed(t, module, func(w io.Writer) (io.WriteCloser, error) { return gzip.NewWriter(w), nil }),
		"kernel/c.ko.xz":    xztest.Pack(t, module),
		"kernel/d/e.ko.zst": compressed(t, module, func(w io.Writer) (io.WriteCloser, error) { return zstd.NewWriter(w) }),
		"modules.order":     []byte("order"),
		"modules.dep.bin":   nil,
		"kernel/vmlinuz":    nil,
	} {
		write(t, filepath.Join(from, name), data)
	}
	if err := os.Symlink("/etc/passwd", filepath.Join(from, "kernel/f.ko")); err != nil {
		t.Fatal(err)
	}
	if err := copyModules(t.Context(), from, to); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"kernel/a.ko", "kernel/b.ko", "kernel/c.ko", "kernel/d/e.ko"} {
		wantFile(t, filepath.Join(to, name), module)
	}
	wantFile(t, filepath.Join(to, "modules.order"), []byte("order"))
	for _, name := range []string{"modules.dep.bin", "kernel/vmlinuz", "kernel/f.ko", "kernel/c.ko.xz"} {
		if _, err := os.Lstat(filepath.Join(to, name)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// A small file must not become a big one.
	bomb := compressed(t, make([]byte, maxModule+1), func(w io.Writer) (io.WriteCloser, error) { return zstd.NewWriter(w) })
	write(t, filepath.Join(from, "kernel/bomb.ko.zst"), bomb)
	if err := copyModules(t.Context(), from, t.TempDir()); err == nil || !strings.Contains(err.Error(), `"kernel/bomb.ko.zst"`) {
		t.Errorf("a bomb: %v", err)
	}
	greedy := t.TempDir()
	write(t, filepath.Join(greedy, "kernel/greedy.ko.xz"), xztest.Greedy(t, module))
	if err := copyModules(t.Context(), greedy, t.TempDir()); err == nil || !strings.Contains(err.Error(), `"kernel/greedy.ko.xz": xz: (stdin): Memory usage limit`) {
		t.Errorf("what asks for much memory: %v", err)
	}
}

func TestImportName(t *testing.T) {
	t.Parallel()
	for location, want := range map[string]string{
		"/a/linux-image-6.1.0-49-cloud-amd64_6.1.174-1_amd64.deb": "linux-image-6.1.0-49-cloud-amd64",
		"/boot/vmlinuz-6.12.118+deb13-cloud-amd64":                "linux-6.12.118-deb13-cloud-amd64",
		"/src/vmlinux-6.1":           "linux-6.1",
		"/src/arch/x86/boot/bzImage": "bzImage",
	} {
		if got := importName(location); got != want {
			t.Errorf("%q is called %q, want %q", location, got, want)
		}
	}
}

// A bundle that says itself that it lacks something is refused as well.
func TestBundleThatLacks(t *testing.T) {
	t.Parallel()
	c := objects.Contents[Manifest]{
		Manifest: Manifest{Version: "6.1"},
		Parts:    []objects.Part{{Path: partVmlinux}, {Path: partModules}},
	}
	if err := checkParts(c); err != nil {
		t.Errorf("of a banger that did not look: %v", err)
	}
	c.Manifest.Features = []api.Feature{{Name: "disks", Required: true, State: api.FeatureMissing, Options: []string{"CONFIG_EXT4_FS"}}}
	if err := checkParts(c); err == nil || !strings.Contains(err.Error(), "disks (CONFIG_EXT4_FS)") {
		t.Errorf("error %v", err)
	}
}
