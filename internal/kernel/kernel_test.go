package kernel

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"

	"banger/internal/api"
	"banger/internal/debian"
	"banger/internal/paths"
	"banger/internal/progress"
	"banger/internal/tool"
)

const testVersion = "6.12.1-test"

// testVmlinuz makes a boot image, and returns it and the kernel in it.
func testVmlinuz(t *testing.T) (image, vmlinux []byte) {
	t.Helper()
	var b bytes.Buffer
	header := elf.Header64{
		Type: uint16(elf.ET_EXEC), Machine: uint16(elf.EM_X86_64), Version: 1,
		Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 1, Shentsize: 64,
	}
	copy(header.Ident[:], elf.ELFMAG+"\x02\x01\x01")
	if err := errors.Join(
		binary.Write(&b, binary.LittleEndian, header),
		binary.Write(&b, binary.LittleEndian, elf.Prog64{Type: uint32(elf.PT_LOAD)}),
	); err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(&b, "%%s version %%s\x00Linux version %%s\x00Linux version %s (who@where)\x00", testVersion)
	vmlinux = b.Bytes()
	var payload bytes.Buffer
	w := gzip.NewWriter(&payload)
	if _, err := w.Write(vmlinux); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	image = make([]byte, 1024) // setup code of one sector
	image[0x1f1] = 1
	copy(image[0x202:], "HdrS\x0f\x02")
	binary.LittleEndian.PutUint32(image[0x24c:], uint32(payload.Len()))
	return append(image, payload.Bytes()...), vmlinux
}

type file struct {
	name    string
	content []byte
	link    string
}

// testBuiltin has what VMs need beside the modules of [testPackage].
const testBuiltin = `kernel/fs/ext4/ext4.ko
kernel/fs/overlayfs/overlay.ko
kernel/drivers/block/virtio_blk.ko
kernel/drivers/char/virtio_console.ko
kernel/drivers/char/hw_random/virtio-rng.ko
kernel/net/vmw_vsock/vmw_vsock_virtio_transport.ko
`

const modules = "./kernel/usr/lib/modules/" + testVersion

// testPackage is what the hook leaves of a good package.
func testPackage(t *testing.T) []file {
	t.Helper()
	image, _ := testVmlinuz(t)
	return []file{
		{name: "./dev/"},
		{name: "./etc/passwd", content: []byte("root")},
		{name: "./kernel/"},
		{name: "./kernel/control", content: []byte("Package: linux-image-test\nVersion: 6.12.1-1\n")},
		{name: "./kernel/sha256", content: []byte("0123\n")},
		{name: "./kernel/boot/vmlinuz-" + testVersion, content: image},
		{name: "./kernel/lib", link: "usr/lib"},
		{name: modules + "/"},
		{name: modules + "/build", link: "/usr/src/linux"},
		{name: modules + "/kernel/"},
		{name: modules + "/kernel/virtio_mmio.ko", content: sign("\x7fELF mmio", 0, 0, 30)},
		{name: modules + "/kernel/failover.ko", content: sign("\x7fELF failover", 0, 0, 30)},
		{name: modules + "/kernel/virtio_net.ko", content: []byte("\x7fELF net")},
		{name: modules + "/kernel/crc32c_generic.ko", content: []byte("\x7fELF crc32c")},
		{name: modules + "/kernel/unused.ko", content: sign("\x7fELF unused", 0, 0, 30)},
		{name: modules + "/modules.dep", content: []byte("kernel/virtio_net.ko: kernel/failover.ko\nkernel/failover.ko:\nkernel/virtio_mmio.ko:\nkernel/unused.ko:\nkernel/crc32c_generic.ko:\n")},
		{name: modules + "/modules.builtin", content: []byte(testBuiltin)},
	}
}

func writeArchive(w io.Writer, files []file) error { return writeArchiveAt(w, files, time.Unix(0, 0)) }

// writeArchiveAt lets all files but the kernel have that time.
func writeArchiveAt(w io.Writer, files []file, at time.Time) error {
	tw := tar.NewWriter(w)
	for _, f := range files {
		header := &tar.Header{Name: f.name, Typeflag: tar.TypeReg, Mode: 0o644, Uid: 1000, Size: int64(len(f.content)), ModTime: at}
		if strings.HasPrefix(f.name, "./kernel/boot/") {
			header.ModTime = time.Unix(1e9, 0)
		}
		switch {
		case f.link != "":
			header.Typeflag, header.Linkname = tar.TypeSymlink, f.link
		case strings.HasSuffix(f.name, "/"):
			header.Typeflag, header.Mode = tar.TypeDir, 0o755
		}
		if err := tw.WriteHeader(header); err != nil {
			return err
		}
		if _, err := tw.Write(f.content); err != nil {
			return err
		}
	}
	return tw.Close()
}

var testDefinition = definition{
	name: "test", Description: "for tests", Suite: "trixie", Package: "linux-image-test", VersionPrefix: "6.12.",
	BootModules: []string{"virtio_mmio", "virtio_net", "ext4"},
}

func unpackFiles(t *testing.T, files []file, r definition) (Manifest, string, error) {
	t.Helper()
	var archive bytes.Buffer
	if err := writeArchive(&archive, files); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	manifest, err := unpack(t.Context(), inArchive(bytes.NewReader(archive.Bytes())), r, dir, progress.Discard)
	return manifest, dir, err
}

func wantFile(t *testing.T, path string, want []byte) {
	t.Helper()
	got, err := os.ReadFile(path)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%s: %q, %v; want %q", path, got, err, want)
	}
}

func TestUnpack(t *testing.T) {
	t.Parallel()
	manifest, dir, err := unpackFiles(t, testPackage(t), testDefinition)
	if err != nil {
		t.Fatal(err)
	}
	want := Manifest{
		Version: testVersion, Description: "for tests",
		Source:      Source{Suite: "trixie", Package: "linux-image-test", PackageVersion: "6.12.1-1", SHA256: "0123"},
		BootModules: []string{"crc32c_generic.ko", "virtio_mmio.ko", "failover.ko", "virtio_net.ko"},
	}
	manifest.Features = nil // TestFeatures
	if diff := cmp.Diff(want, manifest); diff != "" {
		t.Errorf("manifest (-want +got):\n%s", diff)
	}
	_, vmlinux := testVmlinuz(t)
	wantFile(t, filepath.Join(dir, "vmlinux"), vmlinux)
	wantFile(t, filepath.Join(dir, "boot-modules", "virtio_mmio.ko"), []byte("\x7fELF mmio"))
	wantFile(t, filepath.Join(dir, "boot-modules", "failover.ko"), []byte("\x7fELF failover"))
	wantFile(t, filepath.Join(dir, "boot-modules", "virtio_net.ko"), []byte("\x7fELF net"))
	entries, err := os.ReadDir(filepath.Join(dir, "boot-modules"))
	if err != nil || len(entries) != 4 {
		t.Errorf("boot modules: %v, %v", entries, err)
	}
}

func TestModulesDisk(t *testing.T) {
	t.Parallel()
	debugfs, err := tool.Find("debugfs")
	if err != nil {
		t.Skip("there is no debugfs to read the disk with")
	}
	_, dir, err := unpackFiles(t, testPackage(t), testDefinition)
	if err != nil {
		t.Fatal(err)
	}
	ask := func(request string) string {
		out, err := exec.CommandContext(t.Context(), debugfs, "-R", request, filepath.Join(dir, "modules.ext4")).Output()
		if err != nil {
			t.Fatalf("%s: %v", request, err)
		}
		return string(out)
	}
	if got := ask("cat /" + testVersion + "/kernel/unused.ko"); got != "\x7fELF unused" {
		t.Errorf("module on the disk: %q", got)
	}
	if got := ask("cat /" + testVersion + "/modules.builtin"); got != testBuiltin {
		t.Errorf("modules.builtin on the disk: %q", got)
	}
	var names []string
	for line := range strings.Lines(ask("ls -p /" + testVersion)) {
		// /inode/mode/uid/gid/name/size/
		if f := strings.Split(strings.TrimSpace(line), "/"); len(f) > 5 && f[5] != "" && !strings.HasPrefix(f[5], ".") {
			names = append(names, strings.Join(f[2:6], " "))
		}
	}
	if diff := cmp.Diff([]string{"040755 0 0 kernel", "100644 0 0 modules.dep", "100644 0 0 modules.builtin"}, names, cmp.Transformer("sort", sorted)); diff != "" {
		t.Errorf("on the disk (-want +got):\n%s", diff)
	}
}

func sorted(list []string) map[string]bool {
	set := make(map[string]bool)
	for _, s := range list {
		set[s] = true
	}
	return set
}

func TestUnpackIsReproducible(t *testing.T) {
	t.Parallel()
	var disks [2][]byte
	for i := range disks {
		var archive bytes.Buffer
		if err := writeArchiveAt(&archive, testPackage(t), time.Unix(1e9+int64(i), 0)); err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		if _, err := unpack(t.Context(), inArchive(bytes.NewReader(archive.Bytes())), testDefinition, dir, progress.Discard); err != nil {
			t.Fatal(err)
		}
		var err error
		if disks[i], err = os.ReadFile(filepath.Join(dir, "modules.ext4")); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(disks[0], disks[1]) {
		t.Error("one package makes two different disks, depending on when it is unpacked")
	}
}

func TestUnpackRefuses(t *testing.T) {
	t.Parallel()
	without := func(name string) func([]file) []file {
		return func(files []file) []file {
			var kept []file
			for _, f := range files {
				if !strings.HasSuffix(f.name, name) {
					kept = append(kept, f)
				}
			}
			if len(kept) == len(files) {
				panic(name)
			}
			return kept
		}
	}
	with := func(name, content string) func([]file) []file {
		return func(files []file) []file { return append(files, file{name: name, content: []byte(content)}) }
	}
	tests := map[string]struct {
		change     func([]file) []file
		definition func(*definition)
		want       string
	}{
		"no kernel":        {without("vmlinuz-" + testVersion), nil, "has no kernel"},
		"two kernels":      {with("./kernel/boot/vmlinuz-6.12.2", "x"), nil, "several kernels"},
		"no control":       {without("/control"), nil, "does not say which package"},
		"no digest":        {without("/sha256"), nil, "does not say which package"},
		"no modules.dep":   {without("modules.dep"), nil, "no modules.dep"},
		"no module":        {without("/failover.ko"), nil, `does not have "kernel/failover.ko"`},
		"module not known": {nil, func(d *definition) { d.BootModules = []string{"nope"} }, `no module "nope"`},
		"another version":  {nil, func(d *definition) { d.VersionPrefix = "6.13." }, `should begin with "6.13."`},
		"no devtmpfs":      {with("./kernel/boot/config-"+testVersion, "CONFIG_ACPI=y\n"), nil, "initramfs (CONFIG_BLK_DEV_INITRD, "},
		"no overlay": {func(files []file) []file {
			files = without("modules.builtin")(files)
			return append(files, file{name: modules + "/modules.builtin", content: []byte(strings.Replace(testBuiltin, "overlay.ko", "other.ko", 1))})
		}, nil, "disks (CONFIG_OVERLAY_FS)"},
		"a name that escapes": {with("./kernel/../../etc/passwd", "x"), nil, "an entry with the name"},
		"an absolute name":    {with("/etc/passwd", "x"), nil, "an entry with the name"},
		"no boot image": {func(f []file) []file {
			return append(without("vmlinuz-"+testVersion)(f), file{name: "./kernel/boot/vmlinuz-" + testVersion})
		}, nil, "cannot read the kernel image"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			files, r := testPackage(t), testDefinition
			if test.change != nil {
				files = test.change(files)
			}
			if test.definition != nil {
				test.definition(&r)
			}
			if _, _, err := unpackFiles(t, files, r); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("unpack: %v, want an error with %q", err, test.want)
			}
		})
	}
}

func TestUnpackCutOff(t *testing.T) {
	t.Parallel()
	var archive bytes.Buffer
	if err := writeArchive(&archive, testPackage(t)); err != nil {
		t.Fatal(err)
	}
	for _, size := range []int{100, 1500, archive.Len() / 2, archive.Len() - 1600} {
		if _, err := unpack(t.Context(), inArchive(bytes.NewReader(archive.Bytes()[:size])), testDefinition, t.TempDir(), progress.Discard); err == nil {
			t.Errorf("the first %d of %d bytes of a package were taken", size, archive.Len())
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := unpack(ctx, inArchive(bytes.NewReader(archive.Bytes())), testDefinition, t.TempDir(), progress.Discard); !errors.Is(err, context.Canceled) {
		t.Errorf("unpack, canceled: %v", err)
	}
}

// testName is the name in the embedded catalog that tests fetch.
const testName = "debian-6.12"

// newStore returns a store that fetches by calling bootstrap.
func newStore(t *testing.T, bootstrap func(w io.Writer) error) *Store {
	t.Helper()
	dir := t.TempDir()
	s := New(Options{Dir: filepath.Join(dir, "kernels"), CacheDir: filepath.Join(dir, "cache"), Mirror: "http://mirror.example/debian"})
	s.check = func(context.Context) error { return nil }
	s.bootstrap = func(_ context.Context, opts debian.Options, w io.Writer, _ progress.Func) error {
		if opts.Suite != "trixie" || opts.Mirror != "http://mirror.example/debian" || opts.Variant != "extract" || !strings.Contains(opts.ExtractHooks[0], "package=linux-image-cloud-amd64\n") {
			return fmt.Errorf("called with %+v", opts)
		}
		return bootstrap(w)
	}
	return s
}

// fullPackage has all that the definition in the catalog asks for.
func fullPackage(t *testing.T) []file {
	t.Helper()
	offered, err := definitions()
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(offered, func(d definition) bool { return d.name == testName })
	if i < 0 {
		t.Fatalf("no definition %q", testName)
	}
	files := testPackage(t)
	var dep strings.Builder
	for _, name := range offered[i].BootModules {
		fmt.Fprintf(&dep, "kernel/all/%s.ko:\n", name)
		files = append(files, file{name: modules + "/kernel/all/" + name + ".ko", content: []byte("\x7fELF " + name)})
	}
	for i := range files {
		if strings.HasSuffix(files[i].name, "modules.dep") {
			files[i].content = []byte(dep.String())
		}
		if strings.HasSuffix(files[i].name, "modules.builtin") {
			files[i].content = []byte{}
		}
	}
	return files
}

func wantKind(t *testing.T, what string, err error, kind api.Kind, hint string) {
	t.Helper()
	apiErr, ok := errors.AsType[*api.Error](err)
	if !ok || apiErr.Kind != kind || !strings.Contains(apiErr.Hint, hint) {
		t.Errorf("%s: %#v, want the kind %s and a hint with %q", what, err, kind, hint)
	}
}

func TestStore(t *testing.T) {
	t.Parallel()
	files := fullPackage(t)
	var fetches atomic.Int32
	s := newStore(t, func(w io.Writer) error {
		fetches.Add(1)
		return writeArchive(w, files)
	})
	_, err := s.Get(testName)
	wantKind(t, "Get from an empty store", err, api.KindNotFound, "banger kernel pull")
	_, err = s.Get("../x")
	wantKind(t, "Get of a bad name", err, api.KindUsage, "")
	_, err = s.Pull(t.Context(), "nope", progress.Discard)
	wantKind(t, "Pull of an unknown name", err, api.KindNotFound, testName)
	wantKind(t, "Delete from an empty store", s.Delete(t.Context(), testName), api.KindNotFound, "")
	available, err := s.Available()
	if err != nil || len(available) == 0 || available[0].Present || available[0].Source["package"] != "linux-image-cloud-amd64" {
		t.Errorf("Available: %+v, %v", available, err)
	}

	var group errgroup.Group
	for range 4 {
		group.Go(func() error {
			_, err := s.Pull(t.Context(), testName, progress.Discard)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		t.Fatal(err)
	}
	if n := fetches.Load(); n != 1 {
		t.Errorf("fetched %d times", n)
	}
	kernel, err := s.Get(testName)
	if err != nil {
		t.Fatal(err)
	}
	_, vmlinux := testVmlinuz(t)
	wantFile(t, kernel.Vmlinux(), vmlinux)
	if info, err := os.Stat(kernel.ModulesDisk()); err != nil || info.Size() == 0 {
		t.Errorf("modules disk: %v, %v", info, err)
	}
	wantFile(t, kernel.BootModules()[0], []byte("\x7fELF virtio_mmio"))
	if info := kernel.Info(); !info.Present || info.Version != testVersion || info.Size < 4096 || info.Source["sha256"] != "0123" {
		t.Errorf("Info: %+v", info)
	}
	list, err := s.List()
	if err != nil || len(list) != 1 || list[0].Name != testName {
		t.Errorf("List: %+v, %v", list, err)
	}
	if available, err = s.Available(); err != nil || !available[0].Present {
		t.Errorf("Available: %+v, %v", available, err)
	}

	// What is damaged is an error, until it is fetched again.
	if err := os.Remove(kernel.Vmlinux()); err != nil {
		t.Fatal(err)
	}
	_, err = s.Get(testName)
	wantKind(t, "Get of a damaged kernel", err, api.KindState, "banger kernel pull "+testName)
	if _, err := s.Pull(t.Context(), testName, progress.Discard); err != nil {
		t.Errorf("Pull of a damaged kernel: %v", err)
	}
	wantFile(t, kernel.Vmlinux(), vmlinux)

	if err := s.Delete(t.Context(), testName); err != nil {
		t.Fatal(err)
	}
	if list, err := s.List(); err != nil || len(list) != 0 {
		t.Errorf("List: %+v, %v", list, err)
	}
	if _, err := os.Stat(kernel.Dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("files of the deleted kernel: %v", err)
	}
	if err := s.Sweep(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestPullFails(t *testing.T) {
	t.Parallel()
	full := newStore(t, func(io.Writer) error { return &fs.PathError{Op: "write", Path: "x", Err: syscall.ENOSPC} })
	_, err := full.Pull(t.Context(), testName, progress.Discard)
	wantKind(t, "with a full disk", err, api.KindNoSpace, full.opts.Dir)

	lacking := newStore(t, func(io.Writer) error { return errors.ErrUnsupported })
	lacking.check = func(context.Context) error { return &api.Error{Kind: api.KindState, Hint: "install it"} }
	_, err = lacking.Pull(t.Context(), testName, progress.Discard)
	wantKind(t, "without the tools", err, api.KindState, "install it")

	broken := newStore(t, func(w io.Writer) error { return writeArchive(w, nil) })
	if _, err := broken.Pull(t.Context(), testName, progress.Discard); err == nil || !strings.Contains(err.Error(), testName) {
		t.Errorf("with an empty archive: %v", err)
	}
	if list, err := broken.List(); err != nil || len(list) != 0 {
		t.Errorf("List: %+v, %v", list, err)
	}
}

func TestInitramfs(t *testing.T) {
	t.Parallel()
	files := fullPackage(t)
	s := newStore(t, func(w io.Writer) error { return writeArchive(w, files) })
	kernel, err := s.Pull(t.Context(), testName, progress.Discard)
	if err != nil {
		t.Fatal(err)
	}
	agent := filepath.Join(t.TempDir(), "agent")
	build := func(content string) string {
		t.Helper()
		// As an upgrade does it: another file under the same name.
		if err := os.WriteFile(agent+".new", append(testELF(t, elf.PT_LOAD), content...), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(agent+".new", agent); err != nil {
			t.Fatal(err)
		}
		path, err := s.Initramfs(t.Context(), kernel, agent)
		if err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Contains(data, []byte(content)) || !bytes.Contains(data, []byte("00-virtio_mmio.ko\n")) {
			t.Errorf("%s has no agent %q or no list of modules", path, content)
		}
		return path
	}
	first := build("agent 1")
	info, err := os.Stat(first)
	if err != nil {
		t.Fatal(err)
	}
	if again := build("agent 1"); again != first {
		t.Errorf("the same agent: %s, then %s", first, again)
	}
	if after, err := os.Stat(first); err != nil || !os.SameFile(info, after) {
		t.Errorf("it was made again: %v", err)
	}
	// What a killed process left, and another kernel's, which stays.
	left, other := first+".tmp123", filepath.Join(filepath.Dir(first), initramfsPrefix("sha256:other")+"1.cpio")
	for _, path := range []string{left, other} {
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	second := build("agent 2")
	if second == first {
		t.Fatal("another agent has the same initramfs")
	}
	for path, want := range map[string]error{first: fs.ErrNotExist, left: fs.ErrNotExist, other: nil, second: nil} {
		if _, err := os.Stat(path); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", path, err, want)
		}
	}
	_, err = s.Initramfs(t.Context(), kernel, agent+".none")
	if missing, ok := errors.AsType[*paths.Error](err); !ok || missing.Hint == "" {
		t.Errorf("without an agent: %v", err)
	}
	if err := s.Delete(t.Context(), testName); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(second); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("initramfs of a deleted kernel: %v", err)
	}
}

// testELF is a program of one empty part.
func testELF(t *testing.T, part elf.ProgType) []byte {
	t.Helper()
	var b bytes.Buffer
	header := elf.Header64{
		Ident: [elf.EI_NIDENT]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
		Type:  uint16(elf.ET_EXEC), Machine: uint16(elf.EM_X86_64), Version: uint32(elf.EV_CURRENT),
		Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 1,
	}
	for _, part := range []any{header, elf.Prog64{Type: uint32(part)}} {
		if err := binary.Write(&b, binary.LittleEndian, part); err != nil {
			t.Fatal(err)
		}
	}
	return b.Bytes()
}

// TestAgentThatCannotRun has agents that a guest's kernel would end with a
// panic.
func TestAgentThatCannotRun(t *testing.T) {
	t.Parallel()
	files := fullPackage(t)
	s := newStore(t, func(w io.Writer) error { return writeArchive(w, files) })
	kernel, err := s.Pull(t.Context(), testName, progress.Discard)
	if err != nil {
		t.Fatal(err)
	}
	for want, content := range map[string][]byte{
		"it needs shared libraries":  testELF(t, elf.PT_INTERP),
		"it is no program for Linux": []byte("#!/bin/sh\nexec something the like\n"),
		"no program":                 nil,
		"no program for Linux":       testELF(t, elf.PT_LOAD)[:40],
	} {
		agent := filepath.Join(t.TempDir(), "agent")
		if err := os.WriteFile(agent, content, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := s.Initramfs(t.Context(), kernel, agent)
		wantKind(t, want, err, api.KindState, "make install")
		if err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
	if entries, err := os.ReadDir(s.initramfsDir()); err == nil && len(entries) > 0 {
		t.Errorf("in the cache: %v", entries)
	}
}

func TestInitramfsSideBySide(t *testing.T) {
	t.Parallel()
	files := fullPackage(t)
	s := newStore(t, func(w io.Writer) error { return writeArchive(w, files) })
	kernel, err := s.Pull(t.Context(), testName, progress.Discard)
	if err != nil {
		t.Fatal(err)
	}
	agent := filepath.Join(t.TempDir(), "agent")
	if err := os.WriteFile(agent, testELF(t, elf.PT_LOAD), 0o600); err != nil {
		t.Fatal(err)
	}
	var group errgroup.Group
	for range 8 {
		group.Go(func() error {
			path, err := s.Initramfs(t.Context(), kernel, agent)
			if err != nil {
				return err
			}
			_, err = os.Stat(path)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
	if entries, err := os.ReadDir(s.initramfsDir()); err != nil || len(entries) != 1 {
		t.Errorf("in the cache: %v, %v", entries, err)
	}
}
