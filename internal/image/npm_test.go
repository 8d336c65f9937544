package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha512"
	"encoding/base64"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// TestNPMIsBounded has an npm client that complains of much.
func TestNPMIsBounded(t *testing.T) {
	dir := t.TempDir()
	script := "#!/bin/sh\n{ echo npm error code E404; head -c 64000000 /dev/zero; } >&2\nexit 2\n"
	if err := os.WriteFile(filepath.Join(dir, "npm"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := NPM{Package: "tool", Version: "1.0.0"}.download(t.Context(), t.TempDir())
	runtime.ReadMemStats(&after)
	if err == nil || err.Error() != "the npm client cannot fetch it: exit status 2: E404" {
		t.Errorf("%v, want the code", err)
	}
	if grown := after.TotalAlloc - before.TotalAlloc; grown > 16<<20 {
		t.Errorf("it took %d bytes", grown)
	}
}

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

func TestNPMCode(t *testing.T) {
	t.Parallel()
	for said, want := range map[string]string{
		"npm error code ETARGET\nnpm error notarget No matching version\nnpm error A complete log\n": ": ETARGET",
		"npm notice a new one\nnpm ERR! code E404\n":                                                 ": E404",
		"npm notice a new one\n": "",
	} {
		if got := npmCode(said); got != want {
			t.Errorf("of %q: got %q, want %q", said, got, want)
		}
	}
}
