package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha512"
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestNPMFile(t *testing.T) {
	t.Parallel()
	var packed bytes.Buffer
	zw := gzip.NewWriter(&packed)
	tw := tar.NewWriter(zw)
	for _, name := range []string{"package/package.json", "package/bin/tool"} {
		if err := tw.WriteHeader(&tar.Header{Name: name, Size: int64(len(name)), Mode: 0o600, Typeflag: tar.TypeReg}); err != nil {
			t.Fatal(err)
		}
		if _, err := tw.Write([]byte(name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := tw.Close(); err != nil {
		t.Fatal(err)
	}
	if err := zw.Close(); err != nil {
		t.Fatal(err)
	}
	archive := filepath.Join(t.TempDir(), "tool.tgz")
	if err := os.WriteFile(archive, packed.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	sum := sha512.Sum512(packed.Bytes())
	n := NPM{
		Name: "tool", Package: "tool", Version: "1.0.0", Member: "package/bin/tool", Path: "/usr/bin/tool", Mode: "0755",
		Integrity: "sha512-" + base64.StdEncoding.EncodeToString(sum[:]),
	}
	if err := n.verify(archive); err != nil {
		t.Errorf("the right archive: %v", err)
	}
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	if err := (npmFile{n, archive}).writeTo(w); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if got := member(t, &out, "./usr/bin/tool"); got != "package/bin/tool" {
		t.Errorf("the tool has %q", got)
	}

	other := n
	other.Member = "package/bin/other"
	if err := (npmFile{other, archive}).writeTo(tar.NewWriter(&out)); err == nil || !strings.Contains(err.Error(), "not there") {
		t.Errorf("a missing member: got error %v", err)
	}
	changed := bytes.Clone(packed.Bytes())
	changed[len(changed)-1] ^= 1
	if err := os.WriteFile(archive, changed, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := n.verify(archive); err == nil || !strings.Contains(err.Error(), "pins") {
		t.Errorf("a changed archive: got error %v", err)
	}
}
