package oci

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync/atomic"
	"syscall"

	"golang.org/x/sync/errgroup"

	"banger/internal/tempfile"
)

// Unpack unpacks and verifies layers that are compressed, side by side, into
// files in dir that have no name. They are read twice later and need not be
// decompressed for it. Layers that would take more than room bytes in all stay
// as they are.
func (i *Image) Unpack(ctx context.Context, room int64, dir string) error {
	budget := &atomic.Int64{}
	budget.Store(room)
	files := make([]*os.File, len(i.Layers))
	group, groupCtx := errgroup.WithContext(ctx)
	group.SetLimit(atOnce)
	for n, layer := range i.Layers {
		group.Go(func() (err error) {
			if files[n], err = layer.unpack(groupCtx, budget, dir); err != nil {
				return fmt.Errorf("layer %d of %d: %w", n+1, len(i.Layers), err)
			}
			return nil
		})
	}
	err := group.Wait()
	last := i.close
	i.close = func() error {
		var errs []error
		for _, file := range files {
			if file != nil {
				errs = append(errs, file.Close())
			}
		}
		if last != nil {
			errs = append(errs, last())
		}
		return errors.Join(errs...)
	}
	if err != nil {
		return err
	}
	for n, file := range files {
		if file == nil {
			continue
		}
		info, err := file.Stat()
		if err != nil {
			return err
		}
		i.Layers[n] = Layer{
			Size: info.Size(), Plain: i.Layers[n].Plain, unpacked: true,
			Open: func() (io.ReadCloser, error) { return io.NopCloser(io.NewSectionReader(file, 0, info.Size())), nil },
		}
	}
	return nil
}

// errRoom says that a layer is left as it is.
var errRoom = errors.New("there is no room to unpack it ahead")

// unpack returns a file with the layer's archive, or nil where that makes no
// sense: it is not compressed, or there is no room.
func (l Layer) unpack(ctx context.Context, budget *atomic.Int64, dir string) (_ *os.File, err error) {
	in, err := l.open(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, in.close()) }()
	if !in.compressed {
		return nil, nil //nolint:nilnil // as is said above
	}
	file, err := tempfile.Open(dir)
	if err != nil {
		return nil, nil //nolint:nilnil,nilerr // what needs the directory will tell
	}
	taken := int64(0)
	_, err = io.Copy(&roomWriter{file, budget, &taken}, in)
	if err == nil {
		err = in.verify()
	}
	if err == nil {
		return file, nil
	}
	budget.Add(taken)
	err = errors.Join(err, file.Close())
	if errors.Is(err, errRoom) || errors.Is(err, syscall.ENOSPC) {
		return nil, nil //nolint:nilnil // as is said above
	}
	return nil, err
}

// roomWriter fails when the budget is used up.
type roomWriter struct {
	io.Writer
	budget *atomic.Int64
	taken  *int64
}

func (w *roomWriter) Write(p []byte) (int, error) {
	*w.taken += int64(len(p))
	if w.budget.Add(-int64(len(p))) < 0 {
		return 0, errRoom
	}
	return w.Writer.Write(p)
}
