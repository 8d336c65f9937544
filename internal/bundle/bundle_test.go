package bundle

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/hiddeco/sshsig"
	"github.com/klauspost/compress/zstd"
	"golang.org/x/crypto/ssh"

	"banger/internal/api"
	"banger/internal/objects"
	"banger/internal/progress"
)

type about struct {
	Version string `json:"version"`
}

// original is a store with one object "a" of a sparse part and a small one in
// a directory.
func original(t *testing.T) objects.Object[about] {
	t.Helper()
	object, err := objects.Open[about](filepath.Join(t.TempDir(), "from")).Fill(t.Context(), "a", func(_ context.Context, dir string) (about, error) {
		disk, err := os.Create(filepath.Join(dir, "disk"))
		if err != nil {
			return about{}, err
		}
		defer disk.Close()
		for offset, text := range map[int64]string{0: "begin", 1<<20 + 7: "middle", 3<<20 - 2: "x"} {
			if _, err := disk.WriteAt([]byte(text), offset); err != nil {
				return about{}, err
			}
		}
		return about{Version: "1"}, errors.Join(
			disk.Truncate(3<<20+100), os.Mkdir(filepath.Join(dir, "sub"), 0o700), os.WriteFile(filepath.Join(dir, "sub", "small"), []byte("small"), 0o600))
	})
	if err != nil {
		t.Fatal(err)
	}
	return object
}

func anything(objects.Contents[about]) error { return nil }

// destination is a store and a check that nothing is in it.
func destination(t *testing.T) (*objects.Store[about], func()) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "to")
	store := objects.Open[about](dir)
	return store, func() {
		t.Helper()
		if list, err := store.List(); err != nil || len(list) != 0 {
			t.Errorf("in the store: %v, %v", list, err)
		}
		for _, sub := range []string{"tmp", "objects", "names"} {
			entries, err := os.ReadDir(filepath.Join(dir, sub))
			if err != nil && !errors.Is(err, fs.ErrNotExist) || len(entries) != 0 {
				t.Errorf("left in %s: %v, %v", sub, entries, err)
			}
		}
	}
}

func wantError(t *testing.T, err error, kind api.Kind, parts ...string) {
	t.Helper()
	told, ok := errors.AsType[*api.Error](err)
	if !ok || told.Kind != kind {
		t.Fatalf("error %v, want one of kind %q", err, kind)
	}
	for _, part := range parts {
		if !strings.Contains(told.Message+told.Hint, part) {
			t.Errorf("error %q (%s) does not speak of %q", told.Message, told.Hint, part)
		}
	}
}

func TestThereAndBack(t *testing.T) {
	t.Parallel()
	object, dir := original(t), t.TempDir()
	exported, err := Export(t.Context(), object, KindImage, dir, progress.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if want := filepath.Join(dir, "a-"+strings.TrimPrefix(object.Digest, "sha256:")+".tar.zst"); exported.Path != want {
		t.Errorf("written to %q, want %q", exported.Path, want)
	}
	store, _ := destination(t)
	request := Request{Kind: KindImage, Location: exported.Path}
	for _, name := range []string{"", "other", "other"} {
		request.Name = name
		got, err := Import(t.Context(), store, request, anything, progress.Discard)
		if err != nil {
			t.Fatal(err)
		}
		if got.Digest != object.Digest || got.Manifest != object.Manifest {
			t.Errorf("got %+v, want %+v", got, object)
		}
		for _, part := range object.Parts {
			before, err1 := os.ReadFile(object.Path(part.Path))
			after, err2 := os.ReadFile(got.Path(part.Path))
			if err := errors.Join(err1, err2); err != nil || !bytes.Equal(before, after) {
				t.Errorf("part %q differs: %v", part.Path, err)
			}
		}
		info, err := os.Stat(got.Path("disk"))
		if err != nil {
			t.Fatal(err)
		}
		if blocks := info.Sys().(*syscall.Stat_t).Blocks * 512; blocks > 256<<10 { //nolint:forcetypeassert // on Linux
			t.Errorf("a sparse file of 3 MiB takes %d bytes", blocks)
		}
	}
	// Over one that is there, and not over something else of that name.
	if _, err := Export(t.Context(), object, KindImage, exported.Path, progress.Discard); err != nil {
		t.Error(err)
	}
	if _, err := store.Fill(t.Context(), "taken", func(context.Context, string) (about, error) { return about{Version: "2"}, nil }); err != nil {
		t.Fatal(err)
	}
	request.Name = "taken"
	_, err = Import(t.Context(), store, request, anything, progress.Discard)
	wantError(t, err, api.KindExists, "--name")
	request.Kind, request.Name = KindKernel, "kernel"
	_, err = Import(t.Context(), store, request, anything, progress.Discard)
	wantError(t, err, api.KindUsage, "banger image import")
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 1 {
		t.Errorf("left beside the bundle: %v, %v", entries, err)
	}
}

func TestExportOfWhatIsDamaged(t *testing.T) {
	t.Parallel()
	object, dir := original(t), t.TempDir()
	part := object.Path("sub/small")
	if err := errors.Join(os.Chmod(part, 0o600), os.WriteFile(part, []byte("SMALL"), 0o600)); err != nil {
		t.Fatal(err)
	}
	_, err := Export(t.Context(), object, KindImage, dir, progress.Discard)
	wantError(t, err, api.KindInternal, "damaged", "sub/small")
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != 0 {
		t.Errorf("left: %v, %v", entries, err)
	}
	_, err = Export(t.Context(), object, KindImage, filepath.Join(dir, "none", "x"), progress.Discard)
	wantError(t, err, api.KindNotFound)
	_, err = Export(t.Context(), object, KindImage, "/dev/null", progress.Discard)
	wantError(t, err, api.KindUsage)
}

// Where files cannot be without a name, they have one that is not seen.
func TestHiddenWithAName(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "b")
	for _, text := range []string{"first", "second"} { // which replaces that
		file, err := createNamed(path)
		if err != nil {
			t.Fatal(err)
		}
		_, err = file.WriteString(text)
		if err := errors.Join(err, file.show(path), file.end()); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != text {
			t.Errorf("got %q, %v", got, err)
		}
	}
	file, err := createNamed(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := file.end(); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("left: %v, %v", left, err)
	}
}

// A hole of a sparse entry comes out of nothing, and must not outlast a cancel.
func TestCancelInAHole(t *testing.T) {
	t.Parallel()
	const size = 1 << 30
	var records strings.Builder
	for _, record := range []string{"major=1", "minor=0", "name=x", fmt.Sprintf("realsize=%d", size)} {
		line := " GNU.sparse." + record + "\n"
		fmt.Fprintf(&records, "%d%s", len(line)+2, line)
	}
	// archive/tar writes neither: the records are a file that is made to be some,
	// and the data begins with a map of one block at the end of the hole.
	data := archive(t, []entry{{name: "records", data: records.String()}, {name: "data", data: fmt.Sprintf("%-512s", fmt.Sprintf("1\n%d\n0\n", size))}})
	data[156] = tar.TypeXHeader
	sum := 8 * int(' ')
	for i, b := range data[:512] {
		if i < 148 || i >= 156 {
			sum += int(b)
		}
	}
	copy(data[148:156], fmt.Sprintf("%06o\x00 ", sum))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	r := &reader{tar: tar.NewReader(bytes.NewReader(data))}
	if err := r.unpack(ctx, objects.Part{Path: "x", Size: size}, t.TempDir()); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
}

// entry is one of a bundle that is made by hand.
type entry struct {
	name, data string
	kind       byte
}

// craft is a bundle with parts that its manifest describes right.
func craft(t *testing.T, parts ...entry) []entry {
	t.Helper()
	c := objects.Contents[about]{Manifest: about{"1"}}
	for _, part := range parts {
		c.Parts = append(c.Parts, objects.Part{Path: part.name, Size: int64(len(part.data)), SHA256: fmt.Sprintf("%x", sha256.Sum256([]byte(part.data)))})
	}
	return describe(t, c, parts)
}

func describe(t *testing.T, c objects.Contents[about], parts []entry) []entry {
	t.Helper()
	manifest, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return append([]entry{headerOf(t, Header{Format: 1, Kind: KindImage, Name: "a", Digest: objects.Digest(manifest)}), {name: objects.ManifestFile, data: string(manifest)}}, parts...)
}

func headerOf(t *testing.T, h Header) entry {
	t.Helper()
	data, err := json.Marshal(h)
	if err != nil {
		t.Fatal(err)
	}
	return entry{name: headerFile, data: string(data)}
}

func archive(tb testing.TB, entries []entry) []byte {
	tb.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, e := range entries {
		if e.kind == 0 {
			e.kind = tar.TypeReg
		}
		header := &tar.Header{Name: e.name, Typeflag: e.kind, Mode: 0o644}
		if e.kind == tar.TypeReg {
			header.Size = int64(len(e.data))
		} else {
			header.Linkname = e.data
		}
		if err := w.WriteHeader(header); err != nil {
			tb.Fatal(err)
		}
		if e.kind == tar.TypeReg {
			if _, err := w.Write([]byte(e.data)); err != nil {
				tb.Fatal(err)
			}
		}
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	return buf.Bytes()
}

func compress(tb testing.TB, data []byte, options ...zstd.EOption) []byte {
	tb.Helper()
	w, err := zstd.NewWriter(nil, options...)
	if err != nil {
		tb.Fatal(err)
	}
	defer w.Close()
	return w.EncodeAll(data, nil)
}

func TestHostileBundles(t *testing.T) {
	t.Parallel()
	one, two := entry{name: "disk", data: "disk"}, entry{name: "sub/small", data: "small"}
	good := craft(t, one, two)
	change := func(at int, to entry) []entry {
		changed := append([]entry(nil), good...)
		changed[at] = to
		return changed
	}
	var c objects.Contents[about]
	if err := json.Unmarshal([]byte(good[1].data), &c); err != nil {
		t.Fatal(err)
	}
	with := func(parts ...objects.Part) []entry {
		return describe(t, objects.Contents[about]{Manifest: about{"1"}, Parts: parts}, []entry{one, two})
	}
	part := func(path string, size int64) objects.Part {
		return objects.Part{Path: path, Size: size, SHA256: c.Parts[0].SHA256}
	}
	whole := archive(t, good)
	tests := map[string]struct {
		stream []byte
		want   string
	}{
		"extra part":              {compress(t, archive(t, append(good[:4:4], entry{name: "more", data: "x"}))), `"more", which is no part`},
		"missing part":            {compress(t, archive(t, good[:3])), `ends before "sub/small"`},
		"parts in another order":  {compress(t, archive(t, []entry{good[0], good[1], good[3], good[2]})), `"sub/small" where "disk" should be`},
		"other content":           {compress(t, archive(t, change(2, entry{name: "disk", data: "desk"}))), "digest of its"},
		"other size":              {compress(t, archive(t, change(2, entry{name: "disk", data: "disks"}))), "has 5 bytes and should have 4"},
		"link in place of a file": {compress(t, archive(t, change(2, entry{name: "disk", data: "/etc/passwd", kind: tar.TypeSymlink}))), "not a regular file"},
		"other manifest":          {compress(t, archive(t, change(1, entry{name: "manifest.json", data: good[1].data + " "}))), "digest of its manifest.json"},
		"no manifest":             {compress(t, archive(t, good[:1])), `ends before "manifest.json"`},
		"big manifest":            {compress(t, archive(t, change(1, entry{name: "manifest.json", data: strings.Repeat(" ", maxManifest+1)}))), "at most"},
		"big header":              {compress(t, archive(t, change(0, entry{name: headerFile, data: strings.Repeat(" ", maxHeader+1)}))), "at most"},
		"header that is not JSON": {compress(t, archive(t, change(0, entry{name: headerFile, data: "{"}))), "cannot read banger-bundle.json"},
		"format of tomorrow":      {compress(t, archive(t, change(0, headerOf(t, Header{Format: 2})))), "format 2"},
		"name that escapes":       {compress(t, archive(t, change(0, headerOf(t, Header{Format: 1, Name: "../x"})))), "not a valid name"},
		"path that escapes":       {compress(t, archive(t, with(part("../disk", 4)))), "no path of a part"},
		"absolute path":           {compress(t, archive(t, with(part("/disk", 4)))), "no path of a part"},
		"path that is not clean":  {compress(t, archive(t, with(part("a/../disk", 4)))), "no path of a part"},
		"the store's own name":    {compress(t, archive(t, with(part("manifest.json", 4)))), "no path of a part"},
		"part twice":              {compress(t, archive(t, with(c.Parts[0], c.Parts[0]))), "twice"},
		"negative size":           {compress(t, archive(t, with(part("disk", -1)))), "size -1"},
		"sizes without an end":    {compress(t, archive(t, with(part("disk", 1<<62), part("b", 1<<62), part("c", 1<<62)))), "more than"},
		"another order in a manifest": {
			compress(t, archive(t, describe(t, objects.Contents[about]{Manifest: about{"1"}, Parts: []objects.Part{c.Parts[1], c.Parts[0]}}, []entry{two, one}))), "its digest is",
		},
		"something after the end":  {compress(t, append(slices.Clip(whole), 0)), "after its end"},
		"a second stream":          {append(compress(t, whole), compress(t, whole)...), "after its end"},
		"cut short":                {compress(t, whole)[:200], ""},
		"a window that is too big": {[]byte{0x28, 0xb5, 0x2f, 0xfd, 0, 19 << 3, 1, 0, 0}, "window"}, // 2^(10+19) bytes
		"a disk without room":      {compress(t, archive(t, append([]entry{headerOf(t, Header{Format: 1, Kind: KindImage, Name: "a", Digest: objects.Digest([]byte(good[1].data)), Disk: 1 << 60})}, good[1:]...))), "are needed"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store, wantNothing := destination(t)
			path := filepath.Join(t.TempDir(), "b.tar.zst")
			if err := os.WriteFile(path, test.stream, 0o600); err != nil {
				t.Fatal(err)
			}
			object, err := Import(t.Context(), store, Request{Kind: KindImage, Location: path}, anything, progress.Discard)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("imported %+v, %v: want an error with %q", object, err, test.want)
			}
			wantNothing()
		})
	}
	// What the others are changed from is good.
	store, _ := destination(t)
	path := filepath.Join(t.TempDir(), "b.tar.zst")
	if err := os.WriteFile(path, compress(t, whole), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Import(t.Context(), store, Request{Kind: KindImage, Location: path}, anything, progress.Discard); err != nil {
		t.Error(err)
	}
}

// A small file must not become a big one, but by holes.
func TestZstdBomb(t *testing.T) {
	t.Parallel()
	object, dir := original(t), t.TempDir()
	exported, err := Export(t.Context(), object, KindImage, filepath.Join(dir, "b"), progress.Discard)
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(exported.Path)
	if err != nil {
		t.Fatal(err)
	}
	var bomb bytes.Buffer
	w, err := zstd.NewWriter(&bomb)
	if err != nil {
		t.Fatal(err)
	}
	for range 256 {
		if _, err := w.Write(make([]byte, 1<<20)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	store, wantNothing := destination(t)
	for name, stream := range map[string][]byte{"after a good one": append(data, bomb.Bytes()...), "alone": bomb.Bytes()} {
		if err := os.WriteFile(exported.Path, stream, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Import(t.Context(), store, Request{Kind: KindImage, Location: exported.Path}, anything, progress.Discard); err == nil {
			t.Errorf("%s: imported", name)
		}
	}
	wantNothing()
}

func TestDigestInName(t *testing.T) {
	t.Parallel()
	object, dir := original(t), t.TempDir()
	exported, err := Export(t.Context(), object, KindImage, dir, progress.Discard)
	if err != nil {
		t.Fatal(err)
	}
	wrong := filepath.Join(dir, "a-"+strings.Repeat("0", 64)+".tar.zst")
	if err := os.Rename(exported.Path, wrong); err != nil {
		t.Fatal(err)
	}
	store, wantNothing := destination(t)
	_, err = Import(t.Context(), store, Request{Kind: KindImage, Location: wrong}, anything, progress.Discard)
	wantError(t, err, api.KindState, "should be sha256:000")
	_, err = Import(t.Context(), store, Request{Kind: KindImage, Location: wrong, Digest: "sha256:11"}, anything, progress.Discard)
	wantError(t, err, api.KindState, "should be sha256:11")
	wantNothing()
	if _, err = Import(t.Context(), store, Request{Kind: KindImage, Location: wrong, Digest: object.Digest}, anything, progress.Discard); err != nil {
		t.Error(err)
	}
}

func newKey(t *testing.T) (ssh.Signer, ed25519.PrivateKey) {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return signer, private
}

func TestTrust(t *testing.T) {
	t.Parallel()
	object, dir := original(t), t.TempDir()
	exported, err := Export(t.Context(), object, KindImage, dir, progress.Discard)
	if err != nil {
		t.Fatal(err)
	}
	mine, _ := newKey(t)
	other, _ := newKey(t)
	signed := func(text, namespace string, key ssh.Signer) string {
		sig, err := sshsig.Sign(strings.NewReader(text), key, sshsig.HashSHA512, namespace)
		if err != nil {
			t.Fatal(err)
		}
		return string(sshsig.Armor(sig))
	}
	trusted := []ssh.PublicKey{other.PublicKey(), mine.PublicKey()}
	good := signed(exported.Signed, Namespace, mine)
	tests := map[string]struct {
		signature string // none if empty
		trusted   []ssh.PublicKey
		untrusted bool
		want      string // the error, none if empty
	}{
		"no keys and no signature":    {},
		"good":                        {signature: good, trusted: trusted},
		"not signed":                  {trusted: trusted, want: "it is not signed"},
		"not signed and not asked":    {trusted: trusted, untrusted: true},
		"unknown key":                 {signature: good, trusted: trusted[:1], want: ssh.FingerprintSHA256(mine.PublicKey())},
		"unknown key where none is":   {signature: good, want: "none of trusted_keys"},
		"unknown key and not asked":   {signature: good, untrusted: true},
		"of something else":           {signature: signed(exported.Signed+" ", Namespace, mine), trusted: trusted, want: "signature is not good"},
		"for something else":          {signature: signed(exported.Signed, "file", mine), trusted: trusted, want: "signature is not good"},
		"no signature at all":         {signature: "-----BEGIN", trusted: trusted, want: "signature is not good"},
		"too long to be a signature":  {signature: strings.Repeat("x", maxSignature+1), trusted: trusted, want: "cannot read its signature"},
		"one signature after another": {signature: good + signed(exported.Signed, Namespace, other), trusted: trusted},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store, wantNothing := destination(t)
			path := filepath.Join(t.TempDir(), "b")
			if err := os.Symlink(exported.Path, path); err != nil {
				t.Fatal(err)
			}
			if test.signature != "" {
				if err := os.WriteFile(path+SignatureExtension, []byte(test.signature), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			_, err := Import(t.Context(), store, Request{Kind: KindImage, Location: path, Trusted: test.trusted, Untrusted: test.untrusted}, anything, progress.Discard)
			if test.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want %q", err, test.want)
			}
			wantNothing()
		})
	}
}

// What ssh-keygen signs, as the command line lets it, is a signature here.
func TestSignatureOfSSHKeygen(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("ssh-keygen"); err != nil {
		t.Skip("SKIPPED: no ssh-keygen")
	}
	signer, private := newKey(t)
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		t.Fatal(err)
	}
	key := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(key, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "ssh-keygen", "-q", "-Y", "sign", "-n", Namespace, "-f", key)
	cmd.Stdin = strings.NewReader("what is signed")
	signature, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	if by, err := trust([]byte("what is signed"), signature, []ssh.PublicKey{signer.PublicKey()}); err != nil || by != authorized(signer.PublicKey()) {
		t.Error(err)
	}
	if _, err := trust([]byte("what is not signed"), signature, []ssh.PublicKey{signer.PublicKey()}); err == nil {
		t.Error("a signature of something else is taken")
	}
}

func TestNoBundle(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	store, wantNothing := destination(t)
	for name, data := range map[string][]byte{
		"empty": nil, "text": []byte("text"), "plain tar": archive(t, []entry{{name: headerFile, data: "{}"}}), "another archive": compress(t, archive(t, []entry{{name: "etc/passwd"}})),
	} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Import(t.Context(), store, Request{Kind: KindImage, Location: path}, anything, progress.Discard); !errors.Is(err, ErrNoBundle) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := Import(t.Context(), store, Request{Kind: KindImage, Location: dir}, anything, progress.Discard); !errors.Is(err, ErrNoBundle) {
		t.Errorf("a directory: %v", err)
	}
	_, err := Import(t.Context(), store, Request{Kind: KindImage, Location: filepath.Join(dir, "none")}, anything, progress.Discard)
	wantError(t, err, api.KindNotFound)
	wantNothing()
}

// Whatever an archive has, what is unpacked of it is what the digests say, and
// in its place.
func FuzzReader(f *testing.F) {
	content := func(parts string) []byte {
		manifest := "{\n  \"manifest\": {\n    \"version\": \"1\"\n  },\n  \"parts\": " + parts + "\n}"
		header := fmt.Sprintf(`{"format":1,"kind":"image","name":"a","digest":%q,"disk":0}`, objects.Digest([]byte(manifest)))
		return archive(f, []entry{{name: headerFile, data: header}, {name: "manifest.json", data: manifest}, {name: "a", data: "a"}})
	}
	f.Add(content("null"))
	f.Add(content("[\n    {\n      \"path\": \"a\",\n      \"size\": 1,\n      \"sha256\": \"ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb\"\n    }\n  ]"))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := newReader(bytes.NewReader(data))
		if err != nil {
			return
		}
		found, err := contents[about](r)
		if err != nil {
			return
		}
		parent := t.TempDir()
		dir := filepath.Join(parent, "dir")
		err = r.unpackAll(t.Context(), found.Parts, dir)
		if entries, err := os.ReadDir(parent); err != nil || len(entries) > 1 {
			t.Errorf("beside the directory: %v, %v", entries, err)
		}
		if err != nil {
			return
		}
		for _, part := range found.Parts {
			data, err := os.ReadFile(filepath.Join(dir, part.Path))
			if err != nil || fmt.Sprintf("%x", sha256.Sum256(data)) != part.SHA256 {
				t.Errorf("part %q: %v", part.Path, err)
			}
		}
	})
}

// What is stored and shown of a location has no secrets.
func TestRedacted(t *testing.T) {
	t.Parallel()
	for location, want := range map[string]string{
		"/a/b?c#d":                               "/a/b?c#d",
		"https://host/a.tar.zst":                 "https://host/a.tar.zst",
		"https://host/a%2fb?X-Signature=secret":  "https://host/a%2fb",
		"https://me:secret@host/a?secret#secret": "https://me:xxxxx@host/a",
		"http://host/a?":                         "http://host/a",
	} {
		if got := redacted(location); got != want {
			t.Errorf("%q is shown as %q, want %q", location, got, want)
		}
	}
}
