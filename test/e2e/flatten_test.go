package e2e

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"

	"banger/test/base"
)

// Formats of a mode.
const (
	formatMask  = 0o170000
	formatDir   = 0o040000
	formatFile  = 0o100000
	formatLink  = 0o120000
	formatChar  = 0o020000
	formatBlock = 0o060000
)

// node is all that there is to know of a file.
type node struct {
	Mode, UID, GID uint32
	Links          uint64
	Names          string // of the same file, where it has several
	Mtime          string
	Content        string
	Xattrs         map[string]string

	inode uint64
}

// named notes all names of files that have several.
func named(nodes map[string]node) map[string]node {
	names := map[uint64][]string{}
	for _, name := range slices.Sorted(maps.Keys(nodes)) {
		names[nodes[name].inode] = append(names[nodes[name].inode], fmt.Sprintf("%q", name))
	}
	for name, n := range nodes {
		if all := names[n.inode]; len(all) > 1 {
			n.Names = strings.Join(all, " ")
		}
		n.inode = 0
		nodes[name] = n
	}
	return nodes
}

// onDisk is what a directory has.
func onDisk(dir string) (map[string]node, error) {
	nodes := map[string]node{}
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var stat unix.Stat_t
		if err := unix.Lstat(path, &stat); err != nil {
			return err
		}
		n := node{Mode: stat.Mode, UID: stat.Uid, GID: stat.Gid, Links: stat.Nlink, inode: stat.Ino, Mtime: fmt.Sprintf("%d.%09d", stat.Mtim.Sec, stat.Mtim.Nsec)}
		if n.Xattrs, err = xattrsOf(path); err != nil {
			return err
		}
		switch stat.Mode & formatMask {
		case formatDir:
			n.Links = 0
		case formatFile:
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			sum := sha256.Sum256(data)
			n.Content = fmt.Sprintf("%d %s", len(data), hex.EncodeToString(sum[:]))
		case formatLink:
			if n.Content, err = os.Readlink(path); err != nil {
				return err
			}
		case formatChar, formatBlock:
			n.Content = fmt.Sprintf("%d:%d", unix.Major(stat.Rdev), unix.Minor(stat.Rdev))
		}
		name, err := filepath.Rel(dir, path)
		nodes[name] = n
		return err
	})
	return nodes, err
}

func xattrsOf(path string) (map[string]string, error) {
	all := map[string]string{}
	buf := make([]byte, 64<<10)
	n, err := unix.Llistxattr(path, buf)
	if err != nil {
		return nil, err
	}
	for name := range strings.SplitSeq(strings.TrimSuffix(string(buf[:n]), "\x00"), "\x00") {
		if name == "" || name == "security.selinux" {
			continue
		}
		value := make([]byte, 64<<10)
		n, err := unix.Lgetxattr(path, name, value)
		if err != nil {
			return nil, err
		}
		all[name] = string(value[:n])
	}
	return all, nil
}

// same compares the root disk of an image with what umoci has unpacked.
func same(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: same ROOT.EXT4 DIRECTORY")
	}
	disk, err := openExt4(ts.MkAbs(args[0]))
	ts.Check(err)
	defer disk.file.Close()
	got, err := disk.tree()
	ts.Check(err)
	want, err := onDisk(ts.MkAbs(args[1]))
	ts.Check(err)
	delete(got, "lost+found") // ext4's own
	if len(want) < 50 {
		ts.Fatalf("umoci has unpacked %d files only", len(want))
	}
	if diff := cmp.Diff(named(want), named(got), cmp.AllowUnexported(node{})); diff != "" {
		ts.Fatalf("umoci (-) and banger (+) do not make the same of it:\n%s", diff)
	}
	ts.Logf("%d files are the same", len(want))
}

// file, dir, ... begin the description of an entry; with changes it.
func entry(kind byte, name, linkname string, change ...func(*tar.Header)) *tar.Header {
	h := &tar.Header{Typeflag: kind, Name: name, Linkname: linkname, Mode: 0o644, Format: tar.FormatPAX, ModTime: time.Unix(1_600_000_000, 0), PAXRecords: map[string]string{}}
	if kind == tar.TypeDir {
		h.Mode = 0o755
	}
	for _, c := range change {
		c(h)
	}
	return h
}

func mode(m int64) func(*tar.Header)   { return func(h *tar.Header) { h.Mode = m } }
func at(t time.Time) func(*tar.Header) { return func(h *tar.Header) { h.ModTime = t } }
func size(n int64) func(*tar.Header)   { return func(h *tar.Header) { h.Size = n } }
func owner(u, g int) func(*tar.Header) { return func(h *tar.Header) { h.Uid, h.Gid = u, g } }
func xattr(k, v string) func(*tar.Header) {
	return func(h *tar.Header) { h.PAXRecords["SCHILY.xattr."+k] = v }
}

func device(major, minor int64) func(*tar.Header) {
	return func(h *tar.Header) { h.Devmajor, h.Devminor = major, minor }
}

// capability is what setcap cap_net_raw+ep writes.
const capability = "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"

// oddLayers is an image with what images have, and what they rarely have.
func oddLayers() [][]*tar.Header {
	const f, d, l, h = tar.TypeReg, tar.TypeDir, tar.TypeSymlink, tar.TypeLink
	deep := strings.Repeat("d", 120) + "/" + strings.Repeat("e", 120) + "/"
	lower := []*tar.Header{
		entry(d, "./", "", mode(0o750), owner(1, 2), at(time.Unix(1_500_000_000, 0))),
		entry(d, "bin/", ""), entry(d, "tmp/", "", mode(0o1777)), entry(d, "spool/", "", mode(0o2775), owner(8, 8)),
		entry(f, "bin/su", "", mode(0o4755), size(1000)), entry(f, "bin/write", "", mode(0o2755), owner(0, 5), size(10)), entry(f, "bin/none", "", mode(0)),
		entry(f, "bin/ping", "", mode(0o755), size(4096), xattr("security.capability", capability)),
		entry(f, "bin/noted", "", size(4097), xattr("user.note", "here"), xattr("user.binary", "\x00\x01\xff"), xattr("trusted.own", "root's"), xattr("user.long", strings.Repeat("x", 700))),
		entry(d, "noted/", "", xattr("user.note", "a directory's")),
		entry(f, "owned", "", owner(100_000, 70_000), size(1)), entry(f, "owned-far", "", owner(3_000_000_000, 4_000_000_000), size(1)),
		entry(f, "hard/a", "", size(100)), entry(h, "hard/b", "hard/a"), entry(d, "hard/", ""), entry(h, "hard/c", "hard/b"),
		entry(d, "dev/", ""), entry(tar.TypeChar, "dev/null", "", mode(0o666), device(1, 3)), entry(tar.TypeBlock, "dev/sda", "", mode(0o660), device(8, 0)),
		entry(tar.TypeChar, "dev/far", "", device(1000, 300_000)), entry(tar.TypeFifo, "dev/fifo", "", mode(0o600)),
		entry(f, strings.Repeat("n", 255), "", size(3)), entry(d, strings.Repeat("d", 120), ""), entry(d, deep, ""), entry(f, deep+strings.Repeat("f", 120), "", size(3)),
		entry(d, "times/", "", at(time.Unix(1, 0))),
		entry(f, "times/1901", "", at(time.Unix(-1<<31, 0))), entry(f, "times/1969", "", at(time.Unix(-1, 0))), entry(d, "times/1960/", "", at(time.Unix(-315_619_200, 0))),
		entry(l, "times/1950", "1960", at(time.Unix(-631_152_000, 0))), entry(f, "times/0", "", at(time.Unix(0, 0))),
		entry(f, "times/2040", "", at(time.Unix(2_208_988_800, 0))), entry(f, "times/2200", "", at(time.Unix(7_258_118_400, 5))),
		entry(f, "times/nano", "", at(time.Unix(1_700_000_000, 123_456_789))), entry(d, "times/nano.d/", "", at(time.Unix(1_700_000_000, 1))),
		entry(d, "names/", ""), entry(f, "names/new\nline", "", size(1)), entry(f, "names/\xff\xfe\x80", "", size(1)), entry(f, "names/ünïcödé", "", size(1)),
		entry(f, "names/back\\slash", "", size(1)), entry(f, "names/ space ", "", size(1)), entry(f, "names/-dash", "", size(1)), entry(f, "names/*?[", "", size(1)), entry(f, "names/wh.not", "", size(1)),
		entry(f, "large", "", size(5<<20+1)), entry(f, "empty", ""),
		entry(l, "links/relative", "../large"), entry(d, "links/", ""), entry(l, "links/absolute", "/etc/../large"), entry(l, "links/out", "../../../../etc/passwd"),
		entry(l, "links/none", "none"), entry(l, "links/59", strings.Repeat("a", 59)), entry(l, "links/60", strings.Repeat("a", 60)), entry(l, "links/long", strings.Repeat("b/", 500)),
		entry(d, "gone.d/", ""), entry(f, "gone.d/below", "", size(9)), entry(f, "gone", "", size(9)), entry(l, "gone.l", "bin"),
		entry(d, "opaque/", ""), entry(f, "opaque/old", "", size(9)), entry(d, "opaque/sub/", ""), entry(f, "opaque/sub/old", "", size(9)),
		entry(f, "pair/one", "", size(50)), entry(d, "pair/", ""), entry(h, "pair/two", "pair/one"), entry(h, "pair/three", "pair/one"),
		entry(f, "replaced/a", "", size(60)), entry(d, "replaced/", ""), entry(h, "replaced/b", "replaced/a"),
		entry(d, "real/", ""), entry(f, "real/file", "", size(5)), entry(l, "link-to-dir", "real"), entry(d, "dir-to-link/", ""), entry(f, "dir-to-link/file", "", size(5)),
		entry(f, "file-to-dir", "", size(5)), entry(d, "dir-to-file/", ""), entry(f, "dir-to-file/file", "", size(5)),
		entry(f, "target", "", size(70)), entry(d, "usr/", ""), entry(d, "usr/lib/", ""), entry(l, "lib", "usr/lib"), entry(f, "usr/lib/x", "", size(3)), entry(f, "usr/lib/y", "", size(3)),
		entry(d, "changed/", "", mode(0o700)), entry(f, "changed/stays", "", size(3)), entry(d, "again/", ""), entry(f, "again/old", "", size(3)),
	}
	upper := []*tar.Header{
		entry(f, ".wh.gone", ""), entry(f, ".wh.gone.d", ""), entry(f, ".wh.gone.l", ""), entry(f, ".wh.never-there", ""), entry(f, ".wh.again", ""),
		entry(d, "opaque/", ""), entry(f, "opaque/.wh..wh..opq", ""), entry(f, "opaque/new", "", size(11)), entry(d, "opaque/sub/", ""), entry(f, "opaque/sub/new", "", size(11)),
		entry(d, "pair/", ""), entry(f, "pair/.wh.one", ""), entry(f, "replaced/a", "", size(61)), entry(d, "replaced/", ""),
		entry(d, "link-to-dir/", ""), entry(f, "link-to-dir/file", "", size(6)), entry(l, "dir-to-link", "real"),
		entry(d, "file-to-dir/", ""), entry(f, "file-to-dir/file", "", size(6)), entry(f, "dir-to-file", "", size(6)),
		entry(d, "upper/", ""), entry(h, "upper/link", "target"), entry(f, "lib/x", "", size(4)), entry(f, "lib/.wh.y", ""), entry(d, "usr/lib/", ""),
		entry(d, "changed/", "", mode(0o711), owner(3, 4), xattr("user.changed", "yes"), at(time.Unix(1_650_000_000, 7))),
	}
	top := []*tar.Header{
		entry(d, "again/", "", mode(0o700)), entry(f, "again/new", "", size(12)), entry(h, "again/link", "upper/link"), entry(f, "target", "", size(71)),
		entry(d, "./", "", mode(0o755), at(time.Unix(1_500_000_001, 0))),
	}
	return [][]*tar.Header{lower, upper, top}
}

// oddities writes an OCI layout of that image, and beside it another with the
// same files in an order that tar allows as well: hard links come before what
// they link to.
func oddities(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: oddities DIRECTORY")
	}
	dir := ts.MkAbs(args[0])
	ts.Check(os.MkdirAll(dir, 0o700))
	ts.Check(writeLayout(filepath.Join(dir, "layout"), oddLayers()))
	turned := oddLayers()
	for _, layer := range turned {
		slices.SortStableFunc(layer, func(a, b *tar.Header) int {
			rank := func(h *tar.Header) int {
				if h.Typeflag == tar.TypeLink {
					return 0
				}
				return 1
			}
			return rank(a) - rank(b)
		})
	}
	ts.Check(writeLayout(filepath.Join(dir, "turned"), turned))
}

func writeLayout(dir string, layers [][]*tar.Header) error {
	var archives []v1.Layer
	for _, headers := range layers {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, h := range headers {
			if err := w.WriteHeader(h); err != nil {
				return fmt.Errorf("%q: %w", h.Name, err)
			}
			// Content that depends on the name alone.
			content := make([]byte, h.Size)
			random := rand.NewChaCha8(sha256.Sum256([]byte(h.Name)))
			if _, err := random.Read(content); err != nil {
				return err
			}
			if _, err := w.Write(content); err != nil {
				return err
			}
		}
		if err := w.Close(); err != nil {
			return err
		}
		archives = append(archives, static.NewLayer(b.Bytes(), types.OCIUncompressedLayer))
	}
	return base.WriteLayout(dir, "odd", archives)
}
