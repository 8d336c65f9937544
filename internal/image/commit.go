package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"banger/internal/api"
	"banger/internal/image/oci"
	"banger/internal/progress"
)

// CheckNew tells whether an image can be made under a name, before much is done.
func (s *Store) CheckNew(name string) error {
	err := s.checkNewName(name)
	if _, getErr := s.objects.Get(name); err == nil && getErr == nil {
		err = nameTaken(name, "there is an image of that name")
	}
	if err != nil {
		return importError("make the image", name, err)
	}
	return nil
}

// Commit makes an image of the root file system of a VM, a tar stream that its
// guest has made.
func (s *Store) Commit(ctx context.Context, name string, vm api.VM, system io.Reader, report progress.Func) (Image, error) {
	image, err := s.commit(ctx, name, vm, system, report)
	if err != nil {
		return Image{}, importError("make the image", name, err)
	}
	return image, nil
}

func (s *Store) commit(ctx context.Context, name string, vm api.VM, system io.Reader, report progress.Func) (_ Image, err error) {
	if err := s.checkNewName(name); err != nil {
		return Image{}, err
	}
	// What the programs of a container image are does not change.
	var base Manifest
	if image, err := s.Get(vm.Image); err == nil {
		base = image.Manifest
	}
	file, err := s.spool(ctx, system, report)
	if err != nil {
		return Image{}, fmt.Errorf("cannot read the VM's disk: %w", err)
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	info, err := file.Stat()
	if err != nil {
		return Image{}, err
	}
	used := false
	object, err := s.objects.Fill(ctx, name, func(ctx context.Context, dir string) (Manifest, error) {
		used = true
		container := &oci.Image{Kind: "VM", Layers: []oci.Layer{{
			Size: info.Size(), Plain: true,
			Open: func() (io.ReadCloser, error) { return io.NopCloser(io.NewSectionReader(file, 0, info.Size())), nil },
		}}}
		made, err := s.flatten(ctx, container, dir, report)
		made.Description, made.Kernel, made.Container = "made of the VM "+vm.Name, vm.Kernel, base.Container
		made.Source["vm"], made.Source["base"] = vm.Name, vm.Image
		delete(made.Source, "layers")
		return made, err
	})
	if err == nil && !used {
		err = nameTaken(name, "there is an image of that name")
	}
	return fromObject(object), err
}

// spool writes a stream to a file that has no name.
func (s *Store) spool(ctx context.Context, stream io.Reader, report progress.Func) (_ *os.File, err error) {
	if err := os.MkdirAll(s.options.CacheDir, 0o700); err != nil {
		return nil, err
	}
	file, err := unnamed(s.options.CacheDir)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, file.Close())
		}
	}()
	limited := &io.LimitedReader{R: &counter{r: stream, report: report}, N: oci.MaxSize + 1}
	if _, err := io.Copy(file, limited); err != nil {
		return nil, err
	}
	if limited.N == 0 {
		return nil, fmt.Errorf("%w: its files have more than %d GiB", oci.ErrTooLarge, oci.MaxSize>>30)
	}
	return file, ctx.Err()
}

// unnamed opens a new file in dir that goes with this process.
func unnamed(dir string) (*os.File, error) {
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	switch {
	case err == nil:
		return os.NewFile(uintptr(fd), "the VM's disk"), nil
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EISDIR):
		// Not every file system has that: NFS, and overlays of older kernels.
		return nameless(dir)
	}
	return nil, &os.PathError{Op: "create a file in", Path: dir, Err: err}
}

// nameless takes the name of a new file away at once.
func nameless(dir string) (*os.File, error) {
	file, err := os.CreateTemp(dir, "unpacked-")
	if err != nil {
		return nil, err
	}
	if err := os.Remove(file.Name()); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}
