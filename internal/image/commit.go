package image

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"

	"banger/internal/api"
	"banger/internal/image/oci"
	"banger/internal/progress"
	"banger/internal/tempfile"
)

// CheckNew tells whether an image can be made under a name, before much is done.
func (s *Store) CheckNew(name string) error {
	if err := s.checkFree(name); err != nil {
		return importError("make the image", name, err)
	}
	return nil
}

// Commit makes an image of a VM: of a tar stream of its root file system, that
// its guest has made, or with request.Container of what `docker save` has
// written in it.
func (s *Store) Commit(ctx context.Context, request api.Commit, vm api.VM, stream io.Reader, report progress.Func) (Image, error) {
	image, err := s.commit(ctx, request, vm, stream, report)
	if err != nil {
		return Image{}, importError("make the image", request.Name, err)
	}
	return image, nil
}

func (s *Store) commit(ctx context.Context, request api.Commit, vm api.VM, stream io.Reader, report progress.Func) (Image, error) {
	file, err := s.spool(ctx, stream, report)
	if err != nil {
		return Image{}, fmt.Errorf("cannot read the VM's disk: %w", err)
	}
	read, describe := oci.RootFS, func(m *Manifest) {
		m.Description, m.Kernel, m.Container = "made of the VM "+vm.Name, vm.Kernel, nil
		// What the programs of a container image are does not change.
		if base, err := s.Get(vm.Image); err == nil && base.Digest == vm.ImageDigest {
			m.Container = base.Container
		}
		maps.Copy(m.Source, map[string]string{"from": "VM", "vm": vm.Name, "base": vm.ImageDigest, "base_name": vm.Image})
		delete(m.Source, "layers")
		if vm.Ephemeral { // its name means nothing any more
			m.Description = "made of a VM"
			delete(m.Source, "vm")
		}
	}
	if request.Container != "" {
		read, describe = oci.Archive, func(m *Manifest) {
			delete(m.Source, sourceReference) // a name in a VM means nothing here
		}
	}
	container, err := read(file)
	if err != nil {
		return Image{}, errors.Join(err, file.Close())
	}
	return s.add(ctx, request.Name, container, func(m *Manifest) {
		describe(m)
		m.Description = cmp.Or(request.Description, m.Description)
		maps.Copy(m.Source, request.Source)
	}, report)
}

// spool writes a stream to a file that has no name.
func (s *Store) spool(ctx context.Context, stream io.Reader, report progress.Func) (_ *os.File, err error) {
	if err := os.MkdirAll(s.options.CacheDir, 0o700); err != nil {
		return nil, err
	}
	file, err := tempfile.Open(s.options.CacheDir)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, file.Close())
		}
	}()
	limited := &io.LimitedReader{R: counted(stream, report), N: oci.MaxSize + 1}
	if _, err := io.Copy(file, limited); err != nil {
		return nil, err
	}
	if limited.N == 0 {
		return nil, fmt.Errorf("%w: its files have more than %d GiB", oci.ErrTooLarge, oci.MaxSize>>30)
	}
	return file, ctx.Err()
}
