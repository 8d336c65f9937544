package image

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"syscall"

	"banger/internal/api"
	"banger/internal/disk"
	"banger/internal/image/oci"
	"banger/internal/objects"
	"banger/internal/pipe"
	"banger/internal/progress"
	"banger/internal/regular"
	"banger/internal/space"
)

// Register makes an image of a root file system that is on this host: a file
// with an ext4, or a directory. That is only read, and not needed afterwards.
func (s *Store) Register(ctx context.Context, request api.Register, report progress.Func) (Image, error) {
	image, err := s.register(ctx, request, report)
	if err != nil {
		return Image{}, importError("register", request.RootFS, err)
	}
	return image, nil
}

func (s *Store) register(ctx context.Context, request api.Register, report progress.Func) (Image, error) {
	if !filepath.IsAbs(request.RootFS) {
		return Image{}, usage(errors.New("the path is not absolute"))
	}
	if request.Kernel != "" {
		if err := objects.CheckName(request.Kernel); err != nil {
			return Image{}, usage(fmt.Errorf("cannot use the kernel: %w", err))
		}
	}
	if err := s.checkFree(request.Name); err != nil {
		return Image{}, err
	}
	info, err := os.Stat(request.RootFS)
	if err != nil {
		return Image{}, err
	}
	// Where it was is nobody's business: what is said here goes with the image to
	// other hosts.
	describe := func(m *Manifest) {
		m.Description, m.Kernel = "registered root file system", cmp.Or(request.Kernel, defaultKernel)
		maps.Copy(m.Source, map[string]string{"from": "directory", "name": filepath.Base(request.RootFS)})
		delete(m.Source, "layers")
	}
	if info.IsDir() {
		return s.registerDirectory(ctx, request, describe, report)
	}
	image, _, err := s.fill(ctx, request.Name, func(ctx context.Context, dir string) (Manifest, error) {
		m := Manifest{Source: make(map[string]string), Container: &api.ContainerConfig{}}
		describe(&m)
		m.Source["from"] = "ext4"
		m.Init, err = copyDisk(ctx, request.RootFS, filepath.Join(dir, rootDisk), report)
		return m, err
	})
	return image, err
}

// diskUnit is what the size of a disk is a multiple of, in bytes.
const diskUnit = 4096

// copyDisk copies an ext4, and returns the init that is in it. What is checked
// is the copy, which nobody changes.
func copyDisk(ctx context.Context, from, to string, report progress.Func) (init string, err error) {
	file, info, err := regular.Open(from)
	if err != nil {
		return "", err
	}
	defer file.Close()
	if info.Size() > oci.MaxSize {
		return "", fmt.Errorf("%w: it has more than %d GiB", oci.ErrTooLarge, oci.MaxSize>>30)
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		if err := space.Need(filepath.Dir(to), stat.Blocks*512); err != nil {
			return "", err
		}
	}
	report.Step("copying " + filepath.Base(from))
	if err := disk.Clone(ctx, file, info.Size(), to); err != nil {
		return "", err
	}
	if err := os.Truncate(to, (info.Size()+diskUnit-1)/diskUnit*diskUnit); err != nil {
		return "", err
	}
	report.Step("checking the file system")
	if err := disk.Check(ctx, to); err != nil {
		if _, told := errors.AsType[*api.Error](err); ctx.Err() == nil && !told {
			err = &api.Error{Kind: api.KindState, Message: err.Error(), Hint: "it must be a clean ext4 file system that nobody uses"}
		}
		return "", err
	}
	return disk.FirstProgramIn(ctx, to, oci.Inits()...)
}

// registerDirectory makes an image of a directory as tar sees it: with owners,
// modes, links and extended attributes.
func (s *Store) registerDirectory(ctx context.Context, request api.Register, describe func(*Manifest), report progress.Func) (Image, error) {
	for _, own := range []string{s.dir, s.options.CacheDir} {
		switch within, err := isWithin(own, request.RootFS); {
		case err != nil:
			return Image{}, fmt.Errorf("cannot tell whether %q is in it: %w", own, err)
		case within:
			return Image{}, usage(fmt.Errorf("what banger itself writes, in %q, is in that directory", own))
		}
	}
	report.Step("reading " + request.RootFS)
	stream, err := packDirectory(ctx, request.RootFS)
	if err != nil {
		return Image{}, err
	}
	defer stream.Close()
	file, err := s.spool(ctx, stream, report)
	if err != nil {
		return Image{}, err
	}
	container, err := oci.RootFS(file)
	if err != nil {
		return Image{}, errors.Join(err, file.Close())
	}
	return s.add(ctx, request.Name, container, describe, report)
}

// isWithin tells whether path, which need not be there, is dir or in it, wherever
// symbolic links lead.
func isWithin(path, dir string) (bool, error) {
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return false, err
	}
	path, err = resolve(path)
	if err != nil {
		return false, err
	}
	relative, err := filepath.Rel(dir, path)
	return err == nil && filepath.IsLocal(relative), err
}

// resolve follows the symbolic links in as much of a path as there is.
func resolve(path string) (string, error) {
	resolved, err := filepath.EvalSymlinks(path)
	if parent := filepath.Dir(path); errors.Is(err, os.ErrNotExist) && parent != path {
		parent, err = resolve(parent)
		return filepath.Join(parent, filepath.Base(path)), err
	}
	return resolved, err
}

// packDirectory opens a tar stream of what is in a directory. Of other file
// systems that are mounted in it there are only the directories.
func packDirectory(ctx context.Context, dir string) (io.ReadCloser, error) {
	stream, err := pipe.Open(ctx, nil, "env", "TAR_OPTIONS=", "tar", "--create", "--format=posix", "--numeric-owner",
		"--xattrs", "--xattrs-include=*", "--one-file-system", "--directory", dir, ".")
	if err != nil {
		return nil, fmt.Errorf("cannot read the directory: %w", err)
	}
	return stream, nil
}
