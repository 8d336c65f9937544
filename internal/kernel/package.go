package kernel

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"

	"banger/internal/api"
	"banger/internal/pipe"
	"banger/internal/progress"
	"banger/internal/regular"
	"banger/internal/streams"
)

// Limits of a package: the bytes of it, of all that is in it, and of what is
// written of that; and how many files are.
const (
	maxPackage      = 2 << 30
	maxPackageFiles = 100_000
)

// takePackage is a [taker] of a Debian package.
func takePackage(ctx context.Context, request api.Import, work string, report progress.Func) (installed, Manifest, error) {
	if request.Modules != "" || request.Config != "" {
		return installed{}, Manifest{}, &api.Error{Kind: api.KindUsage, Message: "a package has its modules and configuration in itself"}
	}
	report.Step("unpacking the package")
	source, err := unpackPackage(ctx, request.Path, work)
	if err != nil {
		return installed{}, Manifest{}, fmt.Errorf("cannot unpack the package: %w", err)
	}
	files, err := findInstalled(api.Import{Path: work})
	return files, Manifest{Description: "of the package " + filepath.Base(request.Path), Source: source}, err
}

// unpackPackage writes what a package has of a kernel into a directory.
func unpackPackage(ctx context.Context, from, to string) (_ Source, err error) {
	file, _, err := regular.Open(from)
	if err != nil {
		return Source{}, err
	}
	defer file.Close()
	hash := sha256.New()
	if _, err := io.Copy(hash, &boundedReader{file, maxPackage}); err != nil {
		return Source{}, err
	}
	field, err := pipe.Open(ctx, nil, "dpkg-deb", "--field", from, "Package", "Version")
	if err != nil {
		return Source{}, err
	}
	defer field.Close()
	control, err := streams.ReadAll(field, maxSmall)
	if err != nil {
		return Source{}, err
	}
	archive, err := pipe.Open(ctx, nil, "dpkg-deb", "--fsys-tarfile", from)
	if err != nil {
		return Source{}, err
	}
	defer archive.Close()
	root, err := os.OpenRoot(to)
	if err != nil {
		return Source{}, err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	if err := extract(ctx, &boundedReader{archive, maxPackage}, root); err != nil {
		return Source{}, err
	}
	return packageSource(control, []byte(hex.EncodeToString(hash.Sum(nil)))), nil
}

// extract writes the files of a kernel that are in an archive, and reads that to
// its end. Directories and files have modes that let their owner remove them,
// and links are left out, so that nothing leads out of the root.
func extract(ctx context.Context, archive io.Reader, root *os.Root) error {
	files, left := 0, int64(maxPackage)
	err := eachEntry(ctx, archive, func(name string, header *tar.Header, r io.Reader) error {
		if header.Typeflag != tar.TypeReg || !ofKernel(name) {
			return nil
		}
		if files++; files > maxPackageFiles {
			return fmt.Errorf("it has more than %d files", maxPackageFiles)
		}
		if left -= header.Size; left < 0 { // of sparse files too, of which little is in the archive
			return errPackageSize
		}
		return extractFile(r, header, name, root)
	})
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, archive) // the program's failure is there
	return err
}

func ofKernel(name string) bool {
	for _, dir := range []string{"boot/", "lib/modules/", "usr/lib/modules/"} {
		if strings.HasPrefix(name, dir) {
			return true
		}
	}
	return false
}

func extractFile(r io.Reader, header *tar.Header, name string, root *os.Root) (err error) {
	if err := root.MkdirAll(path.Dir(name), 0o700); err != nil {
		return err
	}
	file, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(file, r)
	// The kernel's time is that of all files on its disk of modules.
	return errors.Join(err, file.Close(), root.Chtimes(name, header.ModTime, header.ModTime))
}

var errPackageSize = fmt.Errorf("it has more than %d MiB", maxPackage>>20)

// boundedReader fails where more than left bytes come.
type boundedReader struct {
	io.Reader
	left int64
}

func (r *boundedReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	if r.left -= int64(n); r.left < 0 {
		return 0, errPackageSize
	}
	return n, err
}
