package oci

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"

	"banger/internal/image/oci/ocitest"
	"banger/internal/xz/xztest"
)

func layerOf(data []byte) Layer {
	sum := sha256.Sum256(data)
	return Layer{
		Digest: sha256Prefix + hex.EncodeToString(sum[:]), Size: int64(len(data)),
		Open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil },
	}
}

// flat flattens layers, and tells of each name what it is.
func flat(t *testing.T, layers ...Layer) (map[string]string, error) {
	t.Helper()
	tree, err := Flatten(t.Context(), layers)
	if err != nil {
		return nil, err
	}
	defer tree.Close()
	var b bytes.Buffer
	if err := tree.WriteTar(t.Context(), &b); err != nil {
		return nil, err
	}
	got := map[string]string{}
	for tr := tar.NewReader(&b); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return got, nil
		}
		if err != nil {
			t.Fatal(err)
		}
		name := strings.TrimPrefix(h.Name, "./")
		if _, twice := got[name]; twice {
			t.Errorf("%q is there twice", name)
		}
		content, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		switch h.Typeflag {
		case tar.TypeDir:
			if name != "" {
				got[name] = "dir"
			}
		case tar.TypeSymlink:
			got[name] = "-> " + h.Linkname
		case tar.TypeLink:
			target, ok := got[strings.TrimPrefix(h.Linkname, "./")]
			if !ok {
				t.Errorf("%q links to %q, which did not come before", name, h.Linkname)
			}
			got[name] = "=" + target
		default:
			got[name] = string(content)
			if h.Mode != 0o644 {
				got[name] = fmt.Sprintf("%o %d:%d %q", h.Mode, h.Uid, h.Gid, h.PAXRecords)
			}
		}
	}
}

func TestFlatten(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name   string
		layers [][]string
		want   map[string]string
	}{
		{"replaced", [][]string{{"f a one", "f b two"}, {"f a three"}}, map[string]string{"a": "three", "b": "two"}},
		{"removed", [][]string{{"f d/a one", "f d/b two"}, {"f d/.wh.a "}}, map[string]string{"d/": "dir", "d/b": "two"}},
		{"removed with what is below", [][]string{{"f d/a one"}, {"f .wh.d "}}, map[string]string{}},
		{"removal is for lower layers", [][]string{{"f d/a one"}, {"f d/b two", "f .wh.d "}}, map[string]string{"d/": "dir", "d/b": "two"}},
		{"opaque", [][]string{{"f d/a one", "f d/e/f two"}, {"f d/b three", "f d/.wh..wh..opq "}}, map[string]string{"d/": "dir", "d/b": "three"}},
		{"dir to file", [][]string{{"f d/a one"}, {"f d two"}}, map[string]string{"d": "two"}},
		{"file to dir", [][]string{{"f d one"}, {"d d/", "f d/a two"}}, map[string]string{"d/": "dir", "d/a": "two"}},
		{"below a linked directory", [][]string{{"d usr/lib/", "l lib usr/lib"}, {"f lib/x one"}}, map[string]string{"usr/": "dir", "usr/lib/": "dir", "lib": "-> usr/lib", "usr/lib/x": "one"}},
		{"a link that leads out", [][]string{{"l out ../../../etc", "f out/passwd x"}}, map[string]string{"out": "-> ../../../etc", "etc/": "dir", "etc/passwd": "x"}},
		{"absolute", [][]string{{"f /etc/passwd x"}}, map[string]string{"etc/": "dir", "etc/passwd": "x"}},
		{"hard link", [][]string{{"f a one", "h b a"}}, map[string]string{"a": "one", "b": "=one"}},
		{"hard link before its target", [][]string{{"h a z", "h b a", "f z one"}}, map[string]string{"a": "one", "b": "=one", "z": "=one"}},
		{"hard link to a lower layer", [][]string{{"f z one"}, {"h a z"}}, map[string]string{"a": "one", "z": "=one"}},
		{"hard link outlives its target", [][]string{{"f z one", "h a z"}, {"f z two"}}, map[string]string{"a": "one", "z": "two"}},
		{"hard link to a lower file that goes", [][]string{{"f z one"}, {"h a z", "f .wh.z "}}, map[string]string{"a": "one"}},
		{
			"metadata",
			[][]string{{"s su"}},
			map[string]string{"su": `4755 100000:7 map["SCHILY.xattr.security.capability":"\x01\x00\x00\x02\x00"]`},
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			var layers []Layer
			for i, entries := range test.layers {
				data := ocitest.Pack(t, entries...)
				if i%2 == 1 {
					var z bytes.Buffer
					w := gzip.NewWriter(&z)
					if _, err := w.Write(data); err != nil {
						t.Fatal(err)
					}
					if err := w.Close(); err != nil {
						t.Fatal(err)
					}
					data = z.Bytes()
				}
				layers = append(layers, layerOf(data))
			}
			got, err := flat(t, layers...)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestWorkingDirectory has images whose layers do not have what they speak of.
func TestWorkingDirectory(t *testing.T) {
	t.Parallel()
	layers := []Layer{layerOf(ocitest.Pack(t, "f file one", "d there/", "l link there"))}
	for dir, want := range map[string]int{"": 3, "/": 3, "/there": 3, "/app/data": 5, "link/new": 4, "/file/x": 3, "../x": 3} {
		tree, err := Flatten(t.Context(), layers, dir)
		if err != nil || tree.Entries != want {
			t.Errorf("%q: got %+v, %v, want %d entries", dir, tree, err, want)
		}
	}
}

func TestFlattenRefuses(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		entries []string
		want    string
	}{
		"dots":              {[]string{"f ../x a"}, "leads out"},
		"dots within":       {[]string{"f a/../../x a"}, "leads out"},
		"link to dots":      {[]string{"h x ../../etc/passwd"}, "leads out"},
		"link to nothing":   {[]string{"h x y"}, "which is not there"},
		"link to a dir":     {[]string{"d y/", "h x y"}, "the directory"},
		"below a file":      {[]string{"f x a", "f x/y b"}, "not a directory"},
		"link in a circle":  {[]string{"l x y", "l y x", "f x/z a"}, "too many links"},
		"a long name":       {[]string{"f " + strings.Repeat("n", 256) + " a"}, "has 256 bytes"},
		"a deep path":       {[]string{"d " + strings.Repeat("x/", 2000), "l l " + strings.Repeat("x/", 2000), "f l/" + strings.Repeat("y/", 50) + "z a"}, "bytes in the image"},
		"removal of itself": {[]string{"f .wh... a"}, "removes nothing"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, err := flat(t, layerOf(ocitest.Pack(t, test.entries...))); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got error %v, want one with %q", err, test.want)
			}
		})
	}
	damaged := layerOf(ocitest.Pack(t, "f a one"))
	damaged.Digest = sha256Prefix + strings.Repeat("0", 64)
	_, err := flat(t, damaged)
	if _, ok := errors.AsType[*DigestError](err); !ok {
		t.Errorf("a wrong digest: got error %v", err)
	}
	if _, err := flat(t, layerOf([]byte(strings.Repeat("no archive ", 100)))); err == nil {
		t.Error("what is no archive was taken for one")
	}
}

func TestFlattenXZ(t *testing.T) {
	t.Parallel()
	archive := ocitest.Pack(t, "f a one")
	if got, err := flat(t, layerOf(xztest.Pack(t, archive))); err != nil || len(got) != 1 {
		t.Errorf("got %v, %v", got, err)
	}
	const want = "Memory usage limit"
	if _, err := flat(t, layerOf(xztest.Greedy(t, archive))); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("what asks for much memory: got error %v, want one with %q", err, want)
	}
	damaged := xztest.Pack(t, archive)
	if _, err := flat(t, layerOf(damaged[:len(damaged)-1])); err == nil || !strings.Contains(err.Error(), "Unexpected end") {
		t.Errorf("one that is cut off: got error %v", err)
	}
}

func TestUnpack(t *testing.T) {
	t.Parallel()
	var packed bytes.Buffer
	w := gzip.NewWriter(&packed)
	if _, err := w.Write(ocitest.Pack(t, "f a one", "f b "+strings.Repeat("two", 1000))); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	layers := []Layer{layerOf(packed.Bytes()), layerOf(ocitest.Pack(t, "f .wh.a ")), layerOf(packed.Bytes())}
	layers[2].Digest = sha256Prefix + strings.Repeat("0", 64)
	dir := t.TempDir()
	want, err := flat(t, layers[:2]...)
	if err != nil {
		t.Fatal(err)
	}
	for room, unpacked := range map[int64]bool{1 << 20: true, 2000: false, 0: false} {
		image := &Image{Layers: slices.Clone(layers[:2])}
		if err := image.Unpack(t.Context(), room, dir); err != nil {
			t.Fatal(err)
		}
		if image.Layers[0].unpacked != unpacked || image.Layers[1].unpacked {
			t.Errorf("with room for %d bytes: unpacked are %v and %v", room, image.Layers[0].unpacked, image.Layers[1].unpacked)
		}
		got, err := flat(t, image.Layers...)
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("with room for %d bytes: %v\n%s", room, err, diff)
		}
		if err := image.Close(); err != nil {
			t.Error(err)
		}
	}
	image := &Image{Layers: slices.Clone(layers)}
	err = image.Unpack(t.Context(), 1<<20, dir)
	if _, ok := errors.AsType[*DigestError](err); !ok || !strings.Contains(err.Error(), "layer 3 of 3") {
		t.Errorf("a wrong digest: got error %v", err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
		t.Errorf("files have the names %v, %v", left, err)
	}
	if err := image.Close(); err != nil {
		t.Error(err)
	}
}

func FuzzFlatten(f *testing.F) {
	f.Add(ocitest.Pack(f, "f a one", "h b a", "l c /", "f c/d x"), ocitest.Pack(f, "f .wh.a ", "f c/.wh..wh..opq ", "h e b"))
	f.Fuzz(func(t *testing.T, lower, upper []byte) {
		layers := []Layer{layerOf(lower), layerOf(upper)}
		tree, err := Flatten(t.Context(), layers)
		if err != nil {
			return
		}
		defer tree.Close()
		if tree.Size > 1<<20 {
			return
		}
		var b bytes.Buffer
		if err := tree.WriteTar(t.Context(), &b); err != nil {
			t.Fatalf("what was flattened cannot be written: %v", err)
		}
		n := -1 // the root
		for tr := tar.NewReader(&b); ; n++ {
			h, err := tr.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatalf("what was written cannot be read: %v", err)
			}
			if _, err := split(h.Name); err != nil {
				t.Error(err)
			}
		}
		if n != tree.Entries {
			t.Errorf("%d entries were written of %d", n, tree.Entries)
		}
	})
}

// TestFlattenMany has directories with more names than are searched through.
func TestFlattenMany(t *testing.T) {
	t.Parallel()
	const n = 5 * searched
	var lower, upper []string
	want := map[string]string{"d/": "dir", "o/": "dir", "o/new": "new"}
	for i := range n {
		name := fmt.Sprintf("d/%d", i)
		lower = append(lower, "f "+name+" lower", fmt.Sprintf("f o/%d lower", i))
		switch i % 3 {
		case 0:
			upper = append(upper, fmt.Sprintf("f d/.wh.%d ", i))
		case 1:
			upper = append(upper, "f "+name+" upper")
			want[name] = "upper"
		default:
			want[name] = "lower"
		}
	}
	upper = append(upper, "f o/new new", "f o/.wh..wh..opq ", "h d/0 d/1")
	want["d/0"] = "=upper"
	got, err := flat(t, layerOf(ocitest.Pack(t, lower...)), layerOf(ocitest.Pack(t, upper...)))
	if err != nil {
		t.Fatal(err)
	}
	// Of the two names of one file the first in order has it.
	want["d/0"], want["d/1"] = "upper", "=upper"
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// perFile is what each further file takes of memory in a tree.
func perFile(tb testing.TB) int {
	tb.Helper()
	const few, many = 20_000, 120_000
	return (heapOf(tb, many) - heapOf(tb, few)) / (many - few)
}

// heapOf is what is in memory with a tree of n empty files.
func heapOf(tb testing.TB, n int) int {
	tb.Helper()
	layer := stream(func(w *tar.Writer) error {
		for i := range n {
			if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: fmt.Sprintf("package-%d/file-%d.js", i/100, i)}); err != nil {
				return err
			}
		}
		return nil
	})
	tree, err := Flatten(tb.Context(), []Layer{layer})
	if err != nil {
		tb.Fatal(err)
	}
	var stats runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&stats)
	tree.Close()
	return int(stats.HeapAlloc)
}

// TestMemory does not run beside others: it measures the heap.
func TestMemory(t *testing.T) {
	const most = 160
	if got := perFile(t); got > most {
		t.Errorf("%d bytes a file are in memory, want at most %d", got, most)
	}
}

// asked is a context that tells when somebody waits for its end.
type asked struct {
	context.Context
	waits func()
}

func (a asked) Done() <-chan struct{} {
	a.waits()
	return a.Context.Done()
}

// TestTurns does not run beside others: none but its own trees are large.
func TestTurns(t *testing.T) {
	const name = 90 // bytes
	const count = maxSmall/(costFile+costName*name) + 1
	many := stream(func(w *tar.Writer) error {
		for i := range count {
			if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: fmt.Sprintf("%d/%0*d", i/1000, name, i)}); err != nil {
				return err
			}
		}
		return nil
	})
	first, err := Flatten(t.Context(), []Layer{many})
	if err != nil {
		t.Fatal(err)
	}
	small, err := Flatten(t.Context(), []Layer{layerOf(ocitest.Pack(t, "f a one"))})
	if err != nil {
		t.Fatal(err)
	}
	defer small.Close()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if tree, err := Flatten(asked{ctx, cancel}, []Layer{many}); !errors.Is(err, context.Canceled) {
		t.Fatalf("beside a large tree: %v, %v", tree, err)
	}
	first.Close()
	failed := errors.New("no more")
	broken := many
	broken.Open = func() (io.ReadCloser, error) {
		r, err := many.Open()
		return struct {
			io.Reader
			io.Closer
		}{io.MultiReader(io.LimitReader(r, count*512), iotest.ErrReader(failed)), r}, err
	}
	if _, err := Flatten(t.Context(), []Layer{broken}); !errors.Is(err, failed) {
		t.Fatalf("of a layer that breaks off: %v", err)
	}
	last, err := Flatten(t.Context(), []Layer{many})
	if err != nil {
		t.Fatal(err)
	}
	last.Close()
	last.Close() // is nothing
}

func BenchmarkFlatten(b *testing.B) {
	var bytes int
	for b.Loop() {
		bytes = perFile(b)
	}
	b.ReportMetric(float64(bytes), "heap-B/file")
}

// stream gives a layer without having it in memory.
func stream(write func(w *tar.Writer) error) Layer {
	return Layer{Open: func() (io.ReadCloser, error) {
		r, w := io.Pipe()
		go func() {
			archive := tar.NewWriter(w)
			err := write(archive)
			if err == nil {
				err = archive.Close()
			}
			w.CloseWithError(err)
		}()
		return r, nil
	}}
}

// TestFlattenLimits has what is small to send and large to unpack.
func TestFlattenLimits(t *testing.T) {
	t.Parallel()
	const gib = 1 << 30
	tests := map[string]Layer{
		"files without an end": stream(func(w *tar.Writer) error {
			for i := range 4 * maxNodes {
				if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: fmt.Sprintf("%d/%d", i/1000, i)}); err != nil {
					return err
				}
			}
			return nil
		}),
		"names without an end": stream(func(w *tar.Writer) error {
			for i := range maxMemory / 200 / costName {
				if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: fmt.Sprintf("%d/%0200d", i/1000, i)}); err != nil {
					return err
				}
			}
			return nil
		}),
		"a file of more than an image": stream(func(w *tar.Writer) error {
			return w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: "large", Size: MaxSize + gib})
		}),
	}
	for name, layer := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, err := Flatten(t.Context(), []Layer{layer}); !errors.Is(err, ErrTooLarge) {
				t.Errorf("got error %v, want one of what is too large", err)
			}
		})
	}
	// A window of 64 MiB, which a decoder would have to keep.
	window := layerOf([]byte{0x28, 0xb5, 0x2f, 0xfd, 0, 16 << 3, 1, 0, 0})
	if _, err := Flatten(t.Context(), []Layer{window}); err == nil || !strings.Contains(err.Error(), "window") {
		t.Errorf("a large window: got error %v", err)
	}
}

// TestMembersAreBounded has names that would be in memory, each up to a MiB.
func TestMembersAreBounded(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", maxPath+1)
	for _, entry := range []string{"l a " + long, "h a " + long, "f x" + strings.Repeat("/x", maxPath/2) + " a"} {
		path := filepath.Join(t.TempDir(), "image")
		if err := os.WriteFile(path, ocitest.Pack(t, "f first x", entry, "f manifest.json []"), 0o600); err != nil {
			t.Fatal(err)
		}
		file, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		members, err := readMembers(file)
		if err != nil || len(members.members) != 1 {
			t.Errorf("%.9s: %v, %v", entry, members, err)
		}
		if err := file.Close(); err != nil {
			t.Error(err)
		}
	}
}

func FuzzImport(f *testing.F) {
	layer := ocitest.Pack(f, "f a one")
	for _, parts := range [][]string{
		{"f manifest.json " + `[{"Config": "c", "Layers": ["l"]}]`, "f c {}", "f l " + string(layer)},
		{"f oci-layout {}", "f index.json " + `{"manifests": [{"digest": "` + layerOf(layer).Digest + `"}]}`},
		{"l manifest.json x", "h x manifest.json"},
	} {
		f.Add(ocitest.Pack(f, parts...))
	}
	f.Add(layer)
	f.Fuzz(func(t *testing.T, data []byte) {
		path := filepath.Join(t.TempDir(), "image")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		image, err := Import(t.Context(), path, t.TempDir())
		if err != nil {
			return
		}
		// What its layers have is for FuzzFlatten.
		if tree, err := Flatten(t.Context(), image.Layers); err == nil {
			tree.Close()
		}
		if err := image.Close(); err != nil {
			t.Error(err)
		}
	})
}
