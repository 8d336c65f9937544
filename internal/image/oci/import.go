package oci

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"banger/internal/streams"
	"banger/internal/tempfile"
)

// Import opens an image on disk: the directory of an OCI layout, an archive of
// one, what `docker save` writes, or an archive of a root file system. Archives
// may be compressed with gzip, zstd or xz. What has to be unpacked to be read
// goes to a file in tempDir that has no name. The image is to be closed.
func Import(ctx context.Context, path, tempDir string) (*Image, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if info.IsDir() {
		root, err := os.OpenRoot(path)
		if err != nil {
			return nil, err
		}
		return open(directory{root}, layoutImage)
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("it is neither a file nor a directory")
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	image, err := importFile(ctx, file, tempDir)
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return image, nil
}

func open(parts files, read func(files) (*Image, error)) (*Image, error) {
	image, err := read(parts)
	if err != nil {
		return nil, errors.Join(err, parts.Close())
	}
	image.close = parts.Close
	return image, nil
}

// importFile takes over the file unless it fails.
func importFile(ctx context.Context, file *os.File, tempDir string) (*Image, error) {
	kind, compressed, err := peekKind(ctx, file)
	if err != nil {
		return nil, err
	}
	if kind == kindRootfs {
		return RootFS(file)
	}
	if compressed {
		unpacked, err := unpack(ctx, file, tempDir)
		if err != nil {
			return nil, err
		}
		image, err := Archive(unpacked)
		if err != nil {
			return nil, errors.Join(err, unpacked.Close())
		}
		return image, file.Close()
	}
	return Archive(file)
}

// Archive opens an image in a tar archive that is not compressed: one of an OCI
// layout, or what `docker save` writes. It takes over the file unless it fails.
func Archive(file *os.File) (*Image, error) {
	members, err := readMembers(file)
	if err != nil {
		return nil, err
	}
	var image *Image
	if members.has("oci-layout") && members.has("index.json") {
		image, err = layoutImage(members)
	} else {
		image, err = savedImage(members)
	}
	if err != nil {
		return nil, err
	}
	image.close = members.Close
	return image, nil
}

// RootFS opens a tar archive of a root file system. It takes over the file
// unless it fails.
func RootFS(file *os.File) (*Image, error) {
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	return &Image{
		Kind: "root file system", close: file.Close,
		Layers: []Layer{{
			Size: info.Size(), Plain: true,
			Open: func() (io.ReadCloser, error) { return io.NopCloser(io.NewSectionReader(file, 0, info.Size())), nil },
		}},
	}, nil
}

// layoutImage reads an OCI layout.
func layoutImage(parts files) (*Image, error) {
	data, err := readPart(parts, "index.json", maxManifest)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errors.New("it has no index.json, so it is no OCI layout; a directory that is a root file system is for 'image register'")
	}
	if err != nil {
		return nil, err
	}
	var m manifest
	if err := json.Unmarshal(data, &m); err != nil {
		return nil, fmt.Errorf("cannot read its index: %w", err)
	}
	var chosen descriptor
	const maxDepth = 4
	for depth := 0; ; depth++ {
		if depth == maxDepth {
			return nil, errors.New("its index leads to indexes only")
		}
		if chosen, err = m.choose(); err != nil {
			return nil, err
		}
		if data, err = readBlob(parts, chosen.Digest, maxManifest); err != nil {
			return nil, err
		}
		if m, err = parseManifest(data); err != nil {
			return nil, err
		}
		if !m.isIndex() {
			break
		}
	}
	if data, err = readBlob(parts, m.Config.Digest, maxConfig); err != nil {
		return nil, err
	}
	config, err := parseConfig(data)
	if err != nil {
		return nil, err
	}
	image := &Image{
		Reference: chosen.Annotations["io.containerd.image.name"], Digest: chosen.Digest, Kind: "OCI layout",
		Config: config.public(), Created: config.Created,
	}
	if image.Reference == "" {
		image.Reference = chosen.Annotations["org.opencontainers.image.ref.name"]
	}
	for _, d := range m.Layers {
		image.Layers = append(image.Layers, Layer{Digest: d.Digest, Size: d.Size, Open: opener(parts, blobPath(d.Digest))})
	}
	return image, nil
}

func opener(parts files, name string) func() (io.ReadCloser, error) {
	return func() (io.ReadCloser, error) {
		part, _, err := parts.open(name)
		return part, err
	}
}

func readBlob(parts files, digest string, limit int64) ([]byte, error) {
	if err := checkDigest(digest); err != nil {
		return nil, err
	}
	data, err := readPart(parts, blobPath(digest), limit)
	if err != nil {
		return nil, err
	}
	v := newVerifier(blobPath(digest), digest)
	v.hash.Write(data)
	return data, v.check()
}

// savedImage reads what `docker save` writes.
func savedImage(parts files) (*Image, error) {
	data, err := readPart(parts, "manifest.json", maxManifest)
	if err != nil {
		return nil, err
	}
	var images []struct {
		Config   string   `json:"Config"`
		RepoTags []string `json:"RepoTags"`
		Layers   []string `json:"Layers"`
	}
	if err := json.Unmarshal(data, &images); err != nil {
		return nil, fmt.Errorf("cannot read its manifest.json: %w", err)
	}
	if len(images) != 1 {
		return nil, fmt.Errorf("it has %d images: save one at a time", len(images))
	}
	saved := images[0]
	if data, err = readPart(parts, saved.Config, maxConfig); err != nil {
		return nil, err
	}
	config, err := parseConfig(data)
	if err != nil {
		return nil, err
	}
	if n := len(config.RootFS.DiffIDs); n != len(saved.Layers) {
		return nil, fmt.Errorf("it has %d layers, and its config speaks of %d", len(saved.Layers), n)
	}
	image := &Image{Kind: "docker archive", Config: config.public(), Created: config.Created}
	if len(saved.RepoTags) > 0 {
		image.Reference = saved.RepoTags[0]
	}
	for i, name := range saved.Layers {
		part, size, err := parts.open(name)
		if err != nil {
			return nil, err
		}
		if err := part.Close(); err != nil {
			return nil, err
		}
		image.Layers = append(image.Layers, Layer{DiffID: config.RootFS.DiffIDs[i], Size: size, Open: opener(parts, name)})
	}
	return image, nil
}

// kind of an archive.
type kind int

const (
	kindRootfs kind = iota
	kindImage
)

// errFound ends the search through an archive.
var errFound = errors.New("found")

// peekKind looks through an archive for what makes it one of an image.
func peekKind(ctx context.Context, file *os.File) (k kind, compressed bool, err error) {
	head := make([]byte, 6)
	n, err := io.ReadFull(file, head)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return 0, false, err
	}
	for _, magic := range []string{"\x1f\x8b", "\x28\xb5\x2f\xfd", "\xfd7zXZ\x00"} {
		compressed = compressed || bytes.HasPrefix(head[:n], []byte(magic))
	}
	info, err := file.Stat()
	if err != nil {
		return 0, false, err
	}
	if !compressed { // members can be skipped over
		members, err := readMembers(file)
		if err == nil && (members.has("manifest.json") || members.has("index.json") && members.has("oci-layout")) {
			return kindImage, false, nil
		}
		return kindRootfs, false, err
	}
	plain, _, err := decompress(ctx, streams.Until(ctx, io.NewSectionReader(file, 0, info.Size())))
	if err != nil {
		return 0, false, err
	}
	defer plain.Close()
	var unpacked int64
	err = readArchive(&limitedReader{plain, &unpacked}, func(header *tar.Header, entry int32, _ io.Reader) error {
		switch strings.TrimPrefix(strings.TrimPrefix(header.Name, "./"), "/") {
		case "manifest.json", "oci-layout":
			k = kindImage
			return errFound
		}
		if entry >= maxMembers {
			return errFound
		}
		return nil
	})
	if errors.Is(err, errFound) {
		err = nil
	}
	return k, true, err
}

// unpack decompresses an archive into a file without a name.
func unpack(ctx context.Context, file *os.File, tempDir string) (_ *os.File, err error) {
	if err := os.MkdirAll(tempDir, 0o700); err != nil {
		return nil, fmt.Errorf("cannot make a place to unpack to: %w", err)
	}
	out, err := tempfile.Open(tempDir)
	if err != nil {
		return nil, fmt.Errorf("cannot make a place to unpack to: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, out.Close())
		}
	}()
	if _, err := file.Seek(0, io.SeekStart); err != nil {
		return nil, err
	}
	plain, _, err := decompress(ctx, streams.Until(ctx, file))
	if err != nil {
		return nil, err
	}
	defer plain.Close()
	var unpacked int64
	if _, err := io.Copy(out, &limitedReader{plain, &unpacked}); err != nil {
		return nil, fmt.Errorf("cannot unpack the archive: %w", err)
	}
	return out, nil
}
