package ext4

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"banger/internal/tool"
)

// run runs one of e2fsprogs and returns what it says.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	path, err := tool.Find(name)
	if err != nil {
		t.Skipf("SKIPPED: %s (e2fsprogs) is not installed", name)
	}
	out, err := exec.CommandContext(t.Context(), path, args...).CombinedOutput()
	if err != nil {
		t.Errorf("%s %q: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// check lets e2fsck, which would ask what to do about a fault, find none.
func check(t *testing.T, path string) {
	t.Helper()
	if said := run(t, "e2fsck", "-fn", path); strings.Contains(said, "?") || strings.Contains(said, "WARNING") {
		t.Error(said)
	}
}

// archive makes a tar stream of headers; a file's content is its name, again
// and again.
func archive(tb testing.TB, headers ...*tar.Header) io.Reader {
	tb.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range headers {
		if h.Typeflag == 0 {
			h.Typeflag = tar.TypeReg
		}
		if err := w.WriteHeader(h); err != nil {
			tb.Fatal(err)
		}
		if h.Typeflag == tar.TypeReg {
			if _, err := io.WriteString(w, content(h)); err != nil {
				tb.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	return &b
}

func content(h *tar.Header) string {
	return strings.Repeat(h.Name+"\n", int(h.Size))[:h.Size]
}

// TestWrite has e2fsck and debugfs judge what is written.
func TestWrite(t *testing.T) {
	t.Parallel()
	xattrs := func(pairs ...string) map[string]string {
		records := map[string]string{}
		for i := 0; i < len(pairs); i += 2 {
			records[xattrRecord+pairs[i]] = pairs[i+1]
		}
		return records
	}
	headers := []*tar.Header{
		{Name: "./", Typeflag: tar.TypeDir, Mode: 0o751, ModTime: time.Unix(5, 0)},
		{Name: "./empty", Mode: 0o4755, Uid: 70000, Gid: 80000, PAXRecords: xattrs("security.capability", "\x01\x00\x00\x02\x00")},
		{Name: "./missing/parents/file", Mode: 0o600, Size: 4097, PAXRecords: xattrs("user.small", "v", "user.large", strings.Repeat("x", 2000), "trusted.z", "")},
		{Name: "./missing/", Typeflag: tar.TypeDir, Mode: 0o700, PAXRecords: xattrs("user.of", "a directory")},
		{Name: "./twice/", Typeflag: tar.TypeDir, Mode: 0o700, PAXRecords: xattrs("user.first", strings.Repeat("x", 2000))},
		{Name: "./twice/", Typeflag: tar.TypeDir, Mode: 0o711, PAXRecords: xattrs("user.second", strings.Repeat("x", 2000))},
		{Name: "./block", Mode: 0o644, Size: blockSize, PAXRecords: xattrs("system.posix_acl_access", "\x02\x00\x00\x00\x01\x00\x06\x00\xff\xff\xff\xff\x02\x00\x04\x00\x01\x00\x00\x00\x04\x00\x04\x00\xff\xff\xff\xff\x10\x00\x04\x00\xff\xff\xff\xff\x20\x00\x04\x00\xff\xff\xff\xff")},
		{Name: "./link59", Typeflag: tar.TypeSymlink, Linkname: strings.Repeat("a", 59)},
		{Name: "./link60", Typeflag: tar.TypeSymlink, Linkname: strings.Repeat("b", 60)},
		{Name: "./link4095", Typeflag: tar.TypeSymlink, Linkname: strings.Repeat("c", 4095)},
		{Name: "./char", Typeflag: tar.TypeChar, Mode: 0o600, Devmajor: 259, Devminor: 70000},
		{Name: "./fifo", Typeflag: tar.TypeFifo, Mode: 0o600},
		{Name: "./hard", Typeflag: tar.TypeLink, Linkname: "./missing/parents/file"},
		{Name: "./" + strings.Repeat("n", maxName)},
	}
	for i := range 1000 { // more than is searched through; several blocks of names
		headers = append(headers, &tar.Header{Name: fmt.Sprintf("./many/%d-%s", i, strings.Repeat("m", i%250))})
	}
	headers = append(headers, &tar.Header{Name: "./many/hard", Typeflag: tar.TypeLink, Linkname: "many/7-mmmmmmm"})
	path := filepath.Join(t.TempDir(), "root.ext4")
	if err := Write(path, archive(t, headers...), MaxSize); err != nil {
		t.Fatal(err)
	}
	check(t, path)
	ask := func(request string) string { return run(t, "debugfs", "-R", request, path) }
	for _, test := range []struct{ request, want string }{
		{"stat /", "Mode:  0751"},
		{"stat /", "mtime: 0x00000005"},
		{"stat /lost+found", "Type: directory    Mode:  0700"},
		{"stat /empty", "Mode:  04755"},
		{"stat /empty", "User: 70000   Group: 80000"},
		{"stat /empty", "security.capability (5) = 01 00 00 02 00"},
		{"stat /missing", "Mode:  0700"},
		{"stat /missing", `user.of (11) = "a directory"`},
		{"stat /missing/parents", "Mode:  0755"},
		{"stat /missing/parents/file", "Links: 2"},
		{"stat /missing/parents/file", `user.small (1) = "v"`},
		{"stat /missing/parents/file", "user.large (2000)"},
		{"stat /missing/parents/file", "trusted.z (0)"},
		{"stat /twice", "user.second (2000)"},
		{"stat /block", "system.posix_acl_access (28)"},
		{"stat /link59", `Fast link dest: "` + strings.Repeat("a", 59)},
		{"cat /link60", strings.Repeat("b", 60)},
		{"cat /link4095", strings.Repeat("c", 4095)},
		{"stat /char", "Device major/minor number: 259:70000"},
		{"stat /fifo", "Type: FIFO"},
		{"cat /hard", content(headers[2])},
		{"cat /block", content(headers[6])},
		{"stat /many/hard", "Links: 2"},
		{"ls /many", "999-"},
		{"ls /", strings.Repeat("n", maxName)},
	} {
		if got := ask(test.request); !strings.Contains(got, test.want) {
			t.Errorf("debugfs %s: no %.100q in\n%.1000s", test.request, test.want, got)
		}
	}
}

func TestWriteRefuses(t *testing.T) {
	t.Parallel()
	file := &tar.Header{Name: "a", Size: 1}
	tests := map[string]struct {
		headers []*tar.Header
		want    string
	}{
		"a name twice":            {[]*tar.Header{file, {Name: "b"}, {Name: "./a"}}, "twice"},
		"a directory's name":      {[]*tar.Header{{Name: "d/", Typeflag: tar.TypeDir}, {Name: "d"}}, "twice"},
		"what is below a file":    {[]*tar.Header{file, {Name: "a/b"}}, "not a directory"},
		"a link to nothing":       {[]*tar.Header{{Name: "l", Typeflag: tar.TypeLink, Linkname: "a"}, file}, "not come before"},
		"a link to a directory":   {[]*tar.Header{{Name: "d/", Typeflag: tar.TypeDir}, {Name: "l", Typeflag: tar.TypeLink, Linkname: "d"}}, "hard link to the directory"},
		"a long name":             {[]*tar.Header{{Name: strings.Repeat("n", maxName+1)}}, "256 bytes"},
		"a file that is the root": {[]*tar.Header{{Name: "./x/.."}}, "not a directory"},
		"an attribute of no kind": {[]*tar.Header{{Name: "a", PAXRecords: map[string]string{xattrRecord + "other.x": "v"}}}, "other.x"},
		"attributes that are too large": {
			[]*tar.Header{{Name: "a", PAXRecords: map[string]string{xattrRecord + "user.x": strings.Repeat("v", blockSize)}}}, "do not fit",
		},
		"too much": {[]*tar.Header{{Name: "a", Size: 2 << 20}}, "more than 1 MiB"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			err := Write(filepath.Join(dir, "root.ext4"), archive(t, test.headers...), 1<<20)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got error %v, want one with %q", err, test.want)
			}
			if left, err := os.ReadDir(dir); err != nil || len(left) > 1 {
				t.Errorf("beside the file there is %v, %v", left, err)
			}
		})
	}
}

// TestExtents looks at how large files are found, without writing them.
func TestExtents(t *testing.T) {
	t.Parallel()
	const start = 1000
	for _, blocks := range []int64{1, extentBlocks, 4 * extentBlocks, 4*extentBlocks + 1, extentsInBlock*extentBlocks + 1, MaxSize / blockSize} {
		var inode record
		more, err := inode.setExtents(start, blocks)
		if err != nil {
			t.Fatal(err)
		}
		at := int64(0)
		follow := func(list []byte) {
			for i := 1; i <= int(list[2])|int(list[3])<<8; i++ {
				entry := list[extentSize*i:]
				if first, place := int64(get32(entry)), int64(get32(entry[8:])); first != at || place != start+at {
					t.Fatalf("%d blocks: block %d is said to be %d at %d", blocks, at, first, place)
				}
				at += int64(entry[4]) | int64(entry[5])<<8
			}
		}
		root := inode[atBlock : atBlock+blockBytes]
		if len(more) == 0 {
			follow(root)
		}
		for i := range len(more) / blockSize {
			entry := root[extentSize*(i+1):]
			if first, place := int64(get32(entry)), int64(get32(entry[4:])); first != at || place != start+blocks+int64(i) {
				t.Fatalf("%d blocks: the list from %d on is said to be for %d at %d", blocks, at, first, place)
			}
			follow(more[i*blockSize:][:blockSize])
		}
		if want := blocks + int64(len(more)/blockSize); at != blocks || inode.blocks() != want {
			t.Errorf("%d blocks: %d are found, and %d said to be used, not %d", blocks, at, inode.blocks(), want)
		}
	}
	if _, err := new(record).setExtents(0, math.MaxInt32); err == nil {
		t.Error("a file of 8 TiB was accepted")
	}
}

func FuzzWrite(f *testing.F) {
	var b bytes.Buffer
	if _, err := b.ReadFrom(archive(f, &tar.Header{Name: "d/a", Size: 5}, &tar.Header{Name: "b", Typeflag: tar.TypeLink, Linkname: "d/a"}, &tar.Header{Name: "l", Typeflag: tar.TypeSymlink, Linkname: strings.Repeat("t", 70)})); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Fuzz(func(t *testing.T, stream []byte) {
		path := filepath.Join(t.TempDir(), "root.ext4")
		const limit = 4 << 20
		if err := Write(path, bytes.NewReader(stream), limit); err != nil {
			return
		}
		if info, err := os.Stat(path); err != nil || info.Size() > limit || info.Size()%blockSize != 0 {
			t.Errorf("got a file of %v bytes, %v", info, err)
		}
		check(t, path)
	})
}

// manyFiles is a stream of empty files; ended is called before it ends.
func manyFiles(n int, ended func()) io.Reader {
	r, w := io.Pipe()
	go func() {
		archive := tar.NewWriter(w)
		for i := range n {
			if err := archive.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: fmt.Sprintf("package-%d/file-%d.js", i/100, i)}); err != nil {
				w.CloseWithError(err)
				return
			}
		}
		err := archive.Flush()
		ended()
		if err == nil {
			err = archive.Close()
		}
		w.CloseWithError(err)
	}()
	return r
}

// heapOf is what is in memory when the last of n files has come.
func heapOf(tb testing.TB, n int) int {
	tb.Helper()
	var stats runtime.MemStats
	stream := manyFiles(n, func() {
		runtime.GC()
		runtime.ReadMemStats(&stats)
	})
	if err := Write(filepath.Join(tb.TempDir(), "root.ext4"), stream, MaxSize); err != nil {
		tb.Fatal(err)
	}
	return int(stats.HeapAlloc)
}

// perFile is what each further file takes.
func perFile(tb testing.TB) int {
	tb.Helper()
	const few, many = 20_000, 120_000
	return (heapOf(tb, many) - heapOf(tb, few)) / (many - few)
}

// TestMemory does not run beside others: it measures the heap.
func TestMemory(t *testing.T) {
	const most = 48
	if got := perFile(t); got > most {
		t.Errorf("%d bytes a file are in memory, want at most %d", got, most)
	}
}

// TestHoles has a large file of zeros take no room on the host's disk.
func TestHoles(t *testing.T) {
	t.Parallel()
	const size = 64 << 20
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Name: "zeros", Typeflag: tar.TypeReg, Mode: 0o644, Size: size}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(make([]byte, size)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "fs")
	if err := Write(path, &b, MaxSize); err != nil {
		t.Fatal(err)
	}
	check(t, path)
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if on := info.Sys().(*syscall.Stat_t).Blocks * 512; info.Size() < size || on > 1<<20 {
		t.Errorf("%d bytes, of which %d are on the disk", info.Size(), on)
	}
	if got := run(t, "debugfs", "-R", "cat /zeros", path); strings.Count(got, "\x00") != size { // and debugfs says who it is
		t.Errorf("the file has %d zeros", strings.Count(got, "\x00"))
	}
}

func BenchmarkWrite(b *testing.B) {
	var bytes int
	for b.Loop() {
		bytes = perFile(b)
	}
	b.ReportMetric(float64(bytes), "heap-B/file")
}

// TestTimes has debugfs tell what is stored: seconds, and what belongs to them.
func TestTimes(t *testing.T) {
	t.Parallel()
	times := map[string]struct {
		time   time.Time
		stored string
	}{
		"1901": {time.Unix(-1<<31, 0), "0x80000000:00000000"},
		"1969": {time.Unix(-1, 500), "0xffffffff:000007d0"},
		"1970": {time.Unix(1, 0), "0x00000001:00000000"},
		"2023": {time.Unix(1_700_000_000, 123_456_789), "0x6553f100:1d6f3454"},
		"2040": {time.Unix(2_208_988_800, 1), "0x83aa7e80:00000005"},
		"2110": {time.Unix(1<<32, 0), "0x00000000:00000001"},
		"2200": {time.Unix(7_258_118_400, 0), "0xb09e1900:00000002"},
	}
	var headers []*tar.Header
	for name, test := range times {
		headers = append(headers, &tar.Header{Name: name, ModTime: test.time, Format: tar.FormatPAX})
	}
	path := filepath.Join(t.TempDir(), "root.ext4")
	if err := Write(path, archive(t, headers...), MaxSize); err != nil {
		t.Fatal(err)
	}
	for name, test := range times {
		if out := run(t, "debugfs", "-R", "stat /"+name, path); !strings.Contains(out, " mtime: "+test.stored) {
			t.Errorf("%s: want %s in\n%s", name, test.stored, out)
		}
	}
}
