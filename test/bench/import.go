package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/gzip"
	"golang.org/x/sync/errgroup"

	"banger/internal/image"
	"banger/internal/tool"
	"banger/test/base"
)

// importRuns is how often each side makes an image.
const importRuns = 3

// measureImport compares the import of a container image with what others do
// of it: unpack it, and make a file system of that. They take turns.
func measureImport(ctx context.Context, in *instance, r *report) (err error) {
	dir, err := os.MkdirTemp(in.stateHome, "import-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	images, err := image.Open(filepath.Join(base.State(in.stateHome), "images"), image.Options{})
	if err != nil {
		return err
	}
	img, err := images.Get(base.Image)
	if err != nil {
		return err
	}
	layers, err := packLayers(ctx, img, dir)
	if err != nil {
		return fmt.Errorf("cannot make a container image of %s: %w", base.Image, err)
	}
	layout := filepath.Join(dir, "layout")
	var others, imports times
	var faster, slower []float64
	for i := range importRuns {
		other, err := unpackByOthers(ctx, layout, dir, img.Size)
		if err != nil {
			return err
		}
		own, err := in.timed(ctx, 1, "image", "import", "--name", "import", layout)
		if err != nil {
			return err
		}
		if _, err := in.output(ctx, "image", "delete", "import"); err != nil {
			return err
		}
		begun := time.Now()
		for _, layer := range layers {
			if err := decompress(layer); err != nil {
				return err
			}
		}
		least := time.Since(begun)
		others, imports = append(others, other), append(imports, own[0])
		faster, slower = append(faster, own[0].Seconds()/other.Seconds()), append(slower, own[0].Seconds()/least.Seconds())
		fmt.Fprintf(os.Stderr, "import %d/%d: umoci and mke2fs %.2f s, image import %.2f s, decompressing alone %.2f s\n", i+1, importRuns, other.Seconds(), own[0].Seconds(), least.Seconds())
	}
	r.add(fmt.Sprintf("`umoci unpack` and `mke2fs -d` of a container image, p50 of %d", importRuns), seconds, others.p50().Seconds(), 0)
	r.add(fmt.Sprintf("`image import` of it, p50 of %d", importRuns), seconds, imports.p50().Seconds(), 0)
	r.add("that import divided by the others before it, p50", ratio, percentile(faster, 50), 1/1.5)
	r.add("that import divided by reading and decompressing the layers alone, p50", ratio, percentile(slower, 50), 0)
	return nil
}

// packLayers makes an OCI layout in dir of an image's files, in three layers of
// which it returns the archives.
func packLayers(ctx context.Context, img image.Image, dir string) ([]string, error) {
	tree := filepath.Join(dir, "tree")
	if err := os.Mkdir(tree, 0o700); err != nil {
		return nil, err
	}
	// Without root it complains about owners, which are not measured.
	if err := run(ctx, "debugfs", "-R", "rdump / "+tree, img.RootDisk()); err != nil {
		return nil, err
	}
	paths := make([]string, 3)
	group, groupCtx := errgroup.WithContext(ctx)
	for i, args := range [][]string{{"--exclude=./usr", "."}, {"--exclude=./usr/lib", "./usr"}, {"./usr/lib"}} {
		paths[i] = filepath.Join(dir, strconv.Itoa(i)+".tar.gz")
		group.Go(func() error { return pack(groupCtx, tree, paths[i], args) })
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	var layers []v1.Layer
	for _, path := range paths {
		layer, err := tarball.LayerFromFile(path, tarball.WithMediaType(types.OCILayer))
		if err != nil {
			return nil, err
		}
		layers = append(layers, layer)
	}
	return paths, errors.Join(base.WriteLayout(filepath.Join(dir, "layout"), "bench", layers), os.RemoveAll(tree))
}

// pack writes a compressed archive of what args say of a tree.
func pack(ctx context.Context, tree, path string, args []string) (err error) {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	out := gzip.NewWriter(file)
	cmd := exec.CommandContext(ctx, "tar", append([]string{"-C", tree, "--numeric-owner", "-cf", "-"}, args...)...)
	cmd.Stdout, cmd.Stderr = out, os.Stderr
	return errors.Join(cmd.Run(), out.Close())
}

// unpackByOthers returns how long it takes to make a file system without banger.
func unpackByOthers(ctx context.Context, layout, dir string, size int64) (_ time.Duration, err error) {
	bundle, disk := filepath.Join(dir, "bundle"), filepath.Join(dir, "other.ext4")
	defer func() { err = errors.Join(err, os.RemoveAll(bundle), os.RemoveAll(disk)) }()
	unpack := []string{"unpack", "--image", layout + ":bench", bundle}
	if os.Geteuid() != 0 {
		unpack = append(unpack, "--rootless")
	}
	begun := time.Now()
	if err := run(ctx, "umoci", unpack...); err != nil {
		return 0, err
	}
	// With room for what it adds.
	err = run(ctx, "mke2fs", "-q", "-t", "ext4", "-d", filepath.Join(bundle, "rootfs"), disk, strconv.FormatInt(size*3/2>>20, 10)+"M")
	return time.Since(begun), err
}

func run(ctx context.Context, name string, args ...string) error {
	path, err := tool.Find(name)
	if err != nil {
		return err
	}
	if out, err := exec.CommandContext(ctx, path, args...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, out)
	}
	return nil
}

func decompress(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	plain, err := gzip.NewReader(file)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, plain)
	return err
}
