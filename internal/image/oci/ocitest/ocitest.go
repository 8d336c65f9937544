// Package ocitest makes container images for tests.
package ocitest

import (
	"archive/tar"
	"bytes"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// xattrRecord is what tar has before the name of an extended attribute.
const xattrRecord = "SCHILY.xattr."

// Pack makes a layer. Entries are "KIND NAME [MORE]": f content, d, l symbolic
// link, h hard link, s a setuid program.
func Pack(tb testing.TB, entries ...string) []byte {
	tb.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		f := append(strings.SplitN(e, " ", 3), "")
		h := &tar.Header{Name: f[1], Mode: 0o644, ModTime: time.Unix(1, 0)}
		var content string
		switch f[0] {
		case "f":
			h.Typeflag, content = tar.TypeReg, f[2]
			h.Size = int64(len(content))
		case "d":
			h.Typeflag, h.Mode = tar.TypeDir, 0o755
		case "l":
			h.Typeflag, h.Linkname = tar.TypeSymlink, f[2]
		case "h":
			h.Typeflag, h.Linkname = tar.TypeLink, f[2]
		case "s": // setuid, with a capability and an owner
			h.Typeflag, h.Mode, h.Uid, h.Gid = tar.TypeReg, 0o4755, 100000, 7
			h.PAXRecords = map[string]string{xattrRecord + "security.capability": "\x01\x00\x00\x02\x00", xattrRecord + "trusted.overlay.opaque": "y"}
		}
		if err := w.WriteHeader(h); err != nil {
			tb.Fatal(err)
		}
		if _, err := io.WriteString(w, content); err != nil {
			tb.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	return b.Bytes()
}

// Push gives a reference in a registry an image of one layer.
func Push(tb testing.TB, reference string, layer []byte) {
	tb.Helper()
	image, err := mutate.ConfigFile(empty.Image, &v1.ConfigFile{OS: "linux", Architecture: "amd64", Config: v1.Config{Cmd: []string{"x"}}, RootFS: v1.RootFS{Type: "layers"}})
	if err == nil {
		image, err = mutate.AppendLayers(image, static.NewLayer(layer, types.OCIUncompressedLayer))
	}
	if err != nil {
		tb.Fatal(err)
	}
	parsed, err := name.ParseReference(reference)
	if err != nil {
		tb.Fatal(err)
	}
	if err := remote.Write(parsed, image); err != nil {
		tb.Fatal(err)
	}
}
