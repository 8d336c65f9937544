package bundle

import (
	"archive/tar"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"banger/internal/api"
	"banger/internal/objects"
	"banger/internal/progress"
	"banger/internal/streams"
)

// Export packs an object into a file at path; if that is a directory, into a
// file in it that is called after its content. A file that is there is
// replaced once the new one is whole; after an error nothing is changed.
func Export[M any](ctx context.Context, object objects.Object[M], kind, path string, report progress.Func) (api.Exported, error) {
	exported, err := export(ctx, object, kind, path, report)
	if err != nil {
		return api.Exported{}, explain("export", object.Name, err)
	}
	return exported, nil
}

func export[M any](ctx context.Context, object objects.Object[M], kind, path string, report progress.Func) (_ api.Exported, err error) {
	header := Header{Format: format, Kind: kind, Name: object.Name, Digest: object.Digest, Disk: object.Size}
	if !filepath.IsAbs(path) {
		return api.Exported{}, &api.Error{Kind: api.KindUsage, Message: fmt.Sprintf("the path %q is not absolute", path)}
	}
	info, err := os.Stat(path)
	switch {
	case err == nil && info.IsDir():
		path = filepath.Join(path, header.FileName())
	case err == nil && !info.Mode().IsRegular():
		return api.Exported{}, &api.Error{Kind: api.KindUsage, Message: fmt.Sprintf("%q is neither a file nor a directory", path)}
	}
	signed, err := json.Marshal(header)
	if err != nil {
		return api.Exported{}, err
	}
	file, err := createHidden(path)
	if err != nil {
		return api.Exported{}, err
	}
	defer func() { err = errors.Join(err, file.end()) }()
	if err := pack(ctx, file, object, signed, report); err != nil {
		return api.Exported{}, err
	}
	if err := file.Sync(); err != nil {
		return api.Exported{}, err
	}
	if info, err = file.Stat(); err != nil {
		return api.Exported{}, err
	}
	if err := file.show(path); err != nil {
		return api.Exported{}, err
	}
	return api.Exported{Name: header.Name, Path: path, Digest: header.Digest, Size: info.Size(), Signed: string(signed)}, nil
}

// hidden is a file in the directory that it is to have a name in.
type hidden struct {
	*os.File
	// name is what it is called meanwhile. Empty is best: then nothing is left
	// whatever ends this process.
	name string
}

// createHidden opens a new file in path's directory.
func createHidden(path string) (*hidden, error) {
	fd, err := unix.Open(filepath.Dir(path), unix.O_TMPFILE|unix.O_WRONLY|unix.O_CLOEXEC, mode)
	switch {
	case err == nil:
		return &hidden{File: os.NewFile(uintptr(fd), path)}, nil
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EISDIR):
		// Not every file system has that: NFS, FUSE, and overlays of older kernels.
		return createNamed(path)
	}
	return nil, &os.PathError{Op: "create a file in", Path: filepath.Dir(path), Err: err}
}

// mode is before the umask.
const mode = 0o666

func createNamed(path string) (*hidden, error) {
	name := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+"."+rand.Text())
	file, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	return &hidden{File: file, name: name}, err
}

// show gives the file its name.
func (h *hidden) show(path string) error {
	if h.name == "" {
		self := fmt.Sprintf("/proc/self/fd/%d", h.Fd())
		link := func(to string) error {
			return unix.Linkat(unix.AT_FDCWD, self, unix.AT_FDCWD, to, unix.AT_SYMLINK_FOLLOW)
		}
		err := link(path)
		if !errors.Is(err, unix.EEXIST) {
			return err
		}
		next := fmt.Sprintf("%s.%d.new", path, os.Getpid())
		if err := link(next); err != nil {
			return err
		}
		h.name = next
	}
	if err := os.Rename(h.name, path); err != nil {
		return err
	}
	h.name = ""
	return nil
}

// end closes the file, and removes one that was not shown.
func (h *hidden) end() error {
	err := h.Close()
	if h.name != "" {
		err = errors.Join(err, os.Remove(h.name))
	}
	return err
}

func pack[M any](ctx context.Context, w io.Writer, object objects.Object[M], header []byte, report progress.Func) error {
	zip, err := zstd.NewWriter(w)
	if err != nil {
		return err
	}
	err = packTar(ctx, zip, object, header, report)
	return errors.Join(err, zip.Close())
}

func packTar[M any](ctx context.Context, w io.Writer, object objects.Object[M], header []byte, report progress.Func) error {
	manifest, err := os.ReadFile(object.Path(objects.ManifestFile))
	if err != nil {
		return err
	}
	if objects.Digest(manifest) != object.Digest {
		return fmt.Errorf("%w: its manifest was changed", objects.ErrBroken)
	}
	// Opened before the first is read: from then on it does not matter if the
	// object is deleted.
	files := make([]*os.File, 0, len(object.Parts))
	defer func() {
		for _, file := range files {
			file.Close()
		}
	}()
	var total int64
	for _, part := range object.Parts {
		file, err := os.Open(object.Path(filepath.FromSlash(part.Path)))
		if err != nil {
			return err
		}
		files = append(files, file)
		total += part.Size
	}
	out := tar.NewWriter(w)
	for _, small := range []struct {
		name string
		data []byte
	}{{headerFile, header}, {objects.ManifestFile, manifest}} {
		if err := out.WriteHeader(&tar.Header{Name: small.name, Mode: 0o644, Size: int64(len(small.data))}); err != nil {
			return err
		}
		if _, err := out.Write(small.data); err != nil {
			return err
		}
	}
	count := &streams.Counter{Text: "packing", Total: total, Report: report}
	for i, part := range object.Parts {
		if err := out.WriteHeader(&tar.Header{Name: part.Path, Mode: 0o644, Size: part.Size}); err != nil {
			return err
		}
		hash := sha256.New()
		if _, err := io.Copy(io.MultiWriter(out, hash, count), streams.Until(ctx, files[i])); err != nil {
			return err
		}
		if hex.EncodeToString(hash.Sum(nil)) != part.SHA256 {
			return fmt.Errorf("%w: %q was changed", objects.ErrBroken, part.Path)
		}
	}
	return out.Close()
}
