package oci

import (
	"archive/tar"
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"slices"
	"strings"
	"time"

	"banger/internal/streams"
)

// Layer is one archive of what an image is made of.
type Layer struct {
	// Digest is "sha256:HEX" of the bytes that Open gives, or empty where
	// nobody has said it; DiffID likewise of the archive unpacked.
	Digest, DiffID string
	Size           int64 // of what Open gives, in bytes
	Open           func() (io.ReadCloser, error)
	// Plain layers are whole file systems: nothing in them means a removal.
	Plain bool
	// unpacked layers are their archives: Open's bytes are not compressed.
	unpacked bool
}

// Tree is an image's file system, flattened. Names and attributes are in
// memory, the content of files stays in the layers.
type Tree struct {
	tree    *tree
	layers  []Layer
	Entries int   // names in it
	Size    int64 // bytes of its files' content
	// Init is the path of an init among the usual ones, else empty.
	Init string
	// turn is this tree's, once it is large.
	turn bool
}

// large has room for one: of all trees of this process no two take much memory
// at a time, however many images are imported.
var large = make(chan struct{}, 1)

// waitIfLarge waits, if the tree has become large, until no other is.
func (t *Tree) waitIfLarge(ctx context.Context) error {
	if t.turn || t.tree.memory <= maxSmall {
		return nil
	}
	select {
	case large <- struct{}{}:
		t.turn = true
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Close ends the use of the tree: others may be large.
func (t *Tree) Close() {
	if t.turn {
		t.turn = false
		<-large
	}
}

// DigestError is content that is not what its digest says.
type DigestError struct {
	What, Want, Got string
}

func (e *DigestError) Error() string {
	return fmt.Sprintf("%s is damaged: its digest is %s and should be %s", e.What, e.Got, e.Want)
}

// Flatten reads all layers, lowest first, and verifies their digests. Errors
// name the layer, counted from 1. A [DigestError] or [ErrTooLarge] may be in
// the chain. The directories dirs, which an image speaks of, are made where they
// are missing, as container engines do; those that cannot be are not. The tree is
// to be closed: of those that take much memory there is one at a time.
func Flatten(ctx context.Context, layers []Layer, dirs ...string) (_ *Tree, err error) {
	if len(layers) > maxLayers {
		return nil, tooLarge("it has %d layers", len(layers))
	}
	t := newTree()
	t.wanted = make([][]*inode, len(layers))
	result := &Tree{tree: t, layers: layers}
	defer func() {
		if err != nil {
			result.Close()
		}
	}()
	var unpacked, declared int64
	for i := range layers {
		err := readLayer(ctx, layers[i], &unpacked, func(header *tar.Header, entry int32, _ io.Reader) error {
			if declared += max(header.Size, 0); declared > MaxSize {
				return tooLarge("its files have more than %d GiB", int64(MaxSize)>>30)
			}
			if err := t.add(header, int32(i), entry, !layers[i].Plain); err != nil {
				return err
			}
			return result.waitIfLarge(ctx)
		})
		if err == nil {
			err = t.endLayer(int32(i))
		}
		if err != nil {
			return nil, fmt.Errorf("layer %d of %d: %w", i+1, len(layers), err)
		}
	}
	for _, dir := range dirs {
		if err := t.makeDir(dir); errors.Is(err, ErrTooLarge) {
			return nil, err
		}
	}
	t.walk(func(d *dentry) {
		result.Entries++
		if d.ino.first == nil {
			d.ino.first = d
			result.Size += d.ino.size
		}
	})
	result.Init = t.init()
	return result, nil
}

// readLayer calls visit for each entry of a layer. What it unpacks is added to
// unpacked.
func readLayer(ctx context.Context, layer Layer, unpacked *int64, visit func(header *tar.Header, entry int32, content io.Reader) error) (err error) {
	in, err := layer.open(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, in.close()) }()
	archive := &limitedReader{in, unpacked}
	if err := readArchive(archive, visit); err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, archive); err != nil {
		return fmt.Errorf("cannot read it to its end: %w", err)
	}
	return in.verify()
}

// reading is a layer that is being read: its archive.
type reading struct {
	io.Reader
	compressed bool

	raw           io.Reader // what Open gives
	packed, inner *verifier
	closers       []io.Closer
}

func (l Layer) open(ctx context.Context) (_ *reading, err error) {
	file, err := l.Open()
	if err != nil {
		return nil, err
	}
	r := &reading{raw: streams.Until(ctx, file), packed: newVerifier("it", l.Digest), inner: newVerifier("its archive", l.DiffID), closers: []io.Closer{file}}
	if r.packed != nil {
		r.raw = io.TeeReader(r.raw, r.packed.hash)
	}
	r.Reader = r.raw
	if !l.unpacked {
		plain, compressed, err := decompress(ctx, r.raw)
		if err != nil {
			return nil, errors.Join(err, r.close())
		}
		r.Reader, r.compressed = plain, compressed
		r.closers = append(r.closers, plain)
	}
	if r.inner != nil {
		r.Reader = io.TeeReader(r.Reader, r.inner.hash)
	}
	return r, nil
}

// verify is called when all of the archive has been read.
func (r *reading) verify() error {
	if _, err := io.Copy(io.Discard, r.raw); err != nil {
		return fmt.Errorf("cannot read it to its end: %w", err)
	}
	if err := r.packed.check(); err != nil {
		return err
	}
	return r.inner.check()
}

func (r *reading) close() error {
	var errs []error
	for _, c := range slices.Backward(r.closers) {
		errs = append(errs, c.Close())
	}
	return errors.Join(errs...)
}

func readArchive(archive io.Reader, visit func(header *tar.Header, entry int32, content io.Reader) error) error {
	buffered := bufio.NewReaderSize(archive, 128<<10)
	tr := tar.NewReader(buffered)
	for entry := int32(0); ; entry++ {
		header, err := tr.Next()
		if errors.Is(err, io.EOF) {
			if entry == 0 {
				return requireArchive(buffered)
			}
			return nil
		}
		if err != nil {
			return fmt.Errorf("cannot read its archive: %w", err)
		}
		if entry >= 4*maxNodes {
			return tooLarge("a layer has more than %d entries", entry)
		}
		if err := visit(header, entry, tr); err != nil {
			return err
		}
	}
}

// requireArchive refuses, of what has no entries, all but an end of archive
// and what pads it.
func requireArchive(r io.Reader) error {
	buf := make([]byte, 64<<10)
	for {
		n, err := r.Read(buf)
		if slices.ContainsFunc(buf[:n], func(b byte) bool { return b != 0 }) {
			return errors.New("cannot read its archive: it is no tar archive")
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("cannot read its archive: %w", err)
		}
	}
}

// verifier compares what has gone through its hash with a digest. It is nil
// where there is none to compare with.
type verifier struct {
	what, want string
	hash       hash.Hash
}

func newVerifier(what, digest string) *verifier {
	if digest == "" {
		return nil
	}
	return &verifier{what, digest, sha256.New()}
}

func (v *verifier) check() error {
	if v == nil {
		return nil
	}
	if got := sha256Prefix + hex.EncodeToString(v.hash.Sum(nil)); got != v.want {
		return &DigestError{What: v.what, Want: v.want, Got: got}
	}
	return nil
}

const sha256Prefix = "sha256:"

// limitedReader fails when more than MaxSize bytes were unpacked in all. Much
// may be sparse in an archive of an allowed size, which is not unpacked.
type limitedReader struct {
	r io.Reader
	n *int64
}

func (r *limitedReader) Read(p []byte) (int, error) {
	n, err := r.r.Read(p)
	if *r.n += int64(n); *r.n > MaxSize+(MaxSize>>3) {
		return n, tooLarge("its layers unpack to more than %d GiB", int64(MaxSize)>>30)
	}
	return n, err
}

// walk visits all names but the root's, directories before what is in them, in
// an order that depends on nothing else.
func (t *tree) walk(visit func(*dentry)) {
	var descend func(*dentry)
	descend = func(dir *dentry) {
		dir.children.sort()
		for _, child := range dir.children.list {
			visit(child)
			if child.isDir() {
				descend(child)
			}
		}
	}
	descend(t.root)
}

// Inits are the paths of an init in the order in which the guest looks for it.
func Inits() []string {
	return []string{"/sbin/init", "/etc/init", "/bin/init", "/lib/systemd/systemd", "/usr/lib/systemd/systemd"}
}

// init returns the path of an init as the guest looks for it.
func (t *tree) init() string {
	for _, name := range Inits() {
		if ino := t.follow(name); ino != nil && ino.typ == tar.TypeReg && ino.mode&0o111 != 0 {
			return name
		}
	}
	return ""
}

// follow returns what a name leads to in the end, or nil.
func (t *tree) follow(name string) *inode {
	names := strings.Split(name, "/")
	for range maxLinks {
		last := len(names) - 1
		dir, err := t.find(names[:last], 0, 0, false)
		if err != nil {
			return nil
		}
		child := dir.children.get(names[last])
		switch {
		case child == nil:
			return nil
		case child.ino.typ != tar.TypeSymlink:
			return child.ino
		case strings.HasPrefix(child.ino.more().target, "/"):
			names = strings.Split(child.ino.more().target, "/")
		default:
			names = append(strings.Split(dir.path(), "/"), strings.Split(child.ino.more().target, "/")...)
		}
	}
	return nil
}

// WriteTar writes the tree as one archive: directories and what has no content
// first, then files in the order in which the layers have them, then hard
// links. Each layer is read once.
func (t *Tree) WriteTar(ctx context.Context, w io.Writer) error {
	out := bufio.NewWriterSize(w, 256<<10)
	tw := tar.NewWriter(out)
	err := t.writeTo(ctx, treeWriter{tw})
	if err == nil {
		err = tw.Close()
	}
	if err == nil {
		err = out.Flush()
	}
	if err != nil {
		return fmt.Errorf("cannot write the image's tree: %w", err)
	}
	return nil
}

type treeWriter struct {
	*tar.Writer
}

func (t *Tree) writeTo(ctx context.Context, w treeWriter) error {
	if err := w.entry(t.tree.root); err != nil {
		return err
	}
	var links []*dentry
	var failed error
	t.tree.walk(func(d *dentry) {
		if failed == nil {
			failed = ctx.Err()
		}
		switch {
		case failed != nil:
		case d.ino.first != d:
			links = append(links, d)
		case d.ino.typ != tar.TypeReg || d.ino.size == 0:
			failed = w.entry(d)
		}
	})
	if failed != nil {
		return failed
	}
	var unpacked int64
	for i, layer := range t.layers {
		if err := t.writeContents(ctx, w, layer, t.tree.wanted[i], &unpacked); err != nil {
			return fmt.Errorf("layer %d of %d: %w", i+1, len(t.layers), err)
		}
	}
	for _, d := range links {
		if err := w.link(d); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// errStop ends the reading of a layer that has nothing more to give.
var errStop = errors.New("nothing more is wanted")

// writeContents writes the files that a layer has.
func (t *Tree) writeContents(ctx context.Context, w treeWriter, layer Layer, wanted []*inode, unpacked *int64) error {
	wanted = slices.DeleteFunc(slices.Clone(wanted), func(ino *inode) bool { return ino.first == nil })
	if len(wanted) == 0 {
		return nil
	}
	// What was verified is read again, from a file that nobody writes to.
	layer.Digest, layer.DiffID = "", ""
	buf := make([]byte, 128<<10)
	err := readLayer(ctx, layer, unpacked, func(header *tar.Header, entry int32, content io.Reader) error {
		if entry < wanted[0].entry {
			return nil
		}
		ino := wanted[0]
		wanted = wanted[1:]
		if entry != ino.entry || header.Size != ino.size {
			return errors.New("it has changed while it was read")
		}
		if err := w.entry(ino.first); err != nil {
			return err
		}
		if _, err := io.CopyBuffer(struct{ io.Writer }{w.Writer}, struct{ io.Reader }{content}, buf); err != nil {
			return err
		}
		if len(wanted) == 0 {
			return errStop
		}
		return nil
	})
	if errors.Is(err, errStop) {
		return nil
	}
	if err == nil && len(wanted) > 0 {
		err = errors.New("it has changed while it was read")
	}
	return err
}

// entry writes a header.
func (w treeWriter) entry(d *dentry) error {
	ino, more := d.ino, d.ino.more()
	header := &tar.Header{
		Typeflag: ino.typ, Name: "./" + d.path(), Linkname: more.target, Size: ino.size, Mode: int64(ino.mode),
		Uid: int(ino.uid), Gid: int(ino.gid), ModTime: time.Unix(ino.mtime, int64(ino.nsec)),
		Devmajor: int64(more.major), Devminor: int64(more.minor),
	}
	if ino.typ == tar.TypeDir && d.parent != d {
		header.Name += "/"
	}
	if ino.nsec != 0 {
		header.Format = tar.FormatPAX
	}
	for _, x := range more.xattrs {
		if header.PAXRecords == nil {
			header.PAXRecords = map[string]string{}
		}
		header.PAXRecords[xattrRecord+x.name] = x.value
	}
	return w.WriteHeader(header)
}

func (w treeWriter) link(d *dentry) error {
	return w.WriteHeader(&tar.Header{Typeflag: tar.TypeLink, Name: "./" + d.path(), Linkname: "./" + d.ino.first.path()})
}
