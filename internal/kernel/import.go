package kernel

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"banger/internal/api"
	"banger/internal/bundle"
	"banger/internal/objects"
	"banger/internal/progress"
	"banger/internal/space"
)

const packageExtension = ".deb"

// Import makes a kernel of what is on this host: a bundle, a Debian package of
// a kernel, or a kernel as it is installed, named by its image or by the
// directory that has boot/ and lib/modules/. Nothing of it is run or changed.
func (s *Store) Import(ctx context.Context, request api.Import, report progress.Func) (Kernel, error) {
	if request.Modules == "" && request.Config == "" {
		object, err := s.exchange.Import(ctx, request, report)
		if !errors.Is(err, bundle.ErrNoBundle) {
			return Kernel{object}, err
		}
	}
	from, take, tools := request.Path, takePackage, []string{"depmod", "dpkg-deb"}
	if !strings.HasSuffix(request.Path, packageExtension) {
		files, err := findInstalled(request)
		if err != nil {
			return Kernel{}, cannotImport(request.Path, err)
		}
		from, take, tools = files.image, files.take, []string{"depmod"}
	}
	if err := checkTools(tools...); err != nil {
		return Kernel{}, cannotImport(request.Path, err)
	}
	name := request.Name
	if name == "" {
		name = importName(from)
	}
	used := false
	object, err := s.objects.Fill(ctx, name, func(ctx context.Context, dir string) (Manifest, error) {
		used = true
		return importTree(ctx, request, take, dir, report)
	})
	if err == nil && !used {
		err = &api.Error{Kind: api.KindExists, Message: fmt.Sprintf("there is a kernel %q", name), Hint: "choose another name with --name"}
	}
	if err != nil {
		return Kernel{}, cannotImport(request.Path, err)
	}
	return Kernel{object}, nil
}

func cannotImport(what string, err error) error {
	if known, ok := errors.AsType[*api.Error](err); ok {
		return &api.Error{Kind: known.Kind, Message: fmt.Sprintf("cannot import %q: %v", what, err), Hint: known.Hint}
	}
	kind := api.KindInternal
	switch {
	case errors.Is(err, objects.ErrBadName):
		kind = api.KindUsage
	case errors.Is(err, fs.ErrNotExist):
		kind = api.KindNotFound
	case space.IsFull(err):
		kind = api.KindNoSpace
	case errors.Is(err, context.Canceled):
		kind = api.KindCanceled
	}
	return &api.Error{Kind: kind, Message: fmt.Sprintf("cannot import %q: %v", what, err)}
}

// importName is what a kernel is called that came from there.
func importName(location string) string {
	name := filepath.Base(location)
	if deb, ok := strings.CutSuffix(name, packageExtension); ok {
		name, _, _ = strings.Cut(deb, "_")
	}
	for _, prefix := range imagePrefixes {
		if version, ok := strings.CutPrefix(name, prefix); ok {
			name = "linux-" + version
		}
	}
	return strings.ReplaceAll(name, "+", "-") // in versions of backports, and in no name
}

// taker finds the files of a kernel, with the help of an empty directory, and
// what is to be told about them.
type taker func(ctx context.Context, request api.Import, work string, report progress.Func) (installed, Manifest, error)

func importTree(ctx context.Context, request api.Import, take taker, dir string, report progress.Func) (_ Manifest, err error) {
	// It must do what the catalog's kernels do.
	offered, err := definitions()
	if err != nil {
		return Manifest{}, err
	}
	work := filepath.Join(dir, ".unpacked")
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }() // it is no part of the kernel
	given, staged := filepath.Join(work, "given"), filepath.Join(work, "staged")
	if err := errors.Join(os.MkdirAll(given, 0o700), os.Mkdir(staged, 0o700)); err != nil {
		return Manifest{}, err
	}
	files, about, err := take(ctx, request, given, report)
	if err != nil {
		return Manifest{}, err
	}
	report.Step("unpacking and indexing the kernel's modules")
	if err := files.stage(ctx, filepath.Join(staged, "kernel")); err != nil {
		return Manifest{}, err
	}
	report.Step("building the kernel's files")
	manifest, err := unpack(ctx, inDirectory(staged), definition{BootModules: offered[0].BootModules}, dir, report)
	manifest.Description, manifest.Source = about.Description, about.Source
	return manifest, err
}

// take is a [taker] of what is there already. The paths are this host's own, and
// not told to those who get a bundle of it.
func (k installed) take(context.Context, api.Import, string, progress.Func) (installed, Manifest, error) {
	image := filepath.Base(k.image)
	return k, Manifest{Description: "of " + image + " and " + filepath.Base(k.modules), Source: Source{File: image}}, nil
}
