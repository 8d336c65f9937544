package image

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/api"
	"banger/internal/debian"
	"banger/internal/ext4"
	"banger/internal/progress"
	"banger/internal/size"
	"banger/internal/space"
	"banger/internal/streams"
)

// build makes the image's parts in dir.
func (s *Store) build(ctx context.Context, d *Definition, dir string, report progress.Func) (m Manifest, err error) {
	m = Manifest{Description: d.Description, Kernel: d.Kernel, Init: d.Init}
	temp := s.options.TempDir
	if temp == "" {
		temp = debian.DefaultTempDir()
	}
	if err := debian.Check(ctx); err != nil {
		return m, err
	}
	if err := d.checkSpace(dir, temp); err != nil {
		return m, err
	}

	fetched, notes, err := d.fetchNPM(ctx, report)
	if err != nil {
		return m, err
	}
	defer func() { err = errors.Join(err, fetched.Close()) }()
	m.Notes = notes

	scripts := make([]string, len(d.Scripts))
	for i, name := range d.Scripts {
		script, err := d.dirs.read(name)
		if err != nil {
			return m, err
		}
		scripts[i] = string(script)
	}
	stream, out := io.Pipe()
	built := make(chan error, 1)
	go func() {
		err := debian.Bootstrap(ctx, debian.Options{
			Suite: d.Suite, Variant: d.Variant, Components: d.Components, Include: d.Packages,
			AptOptions: d.AptOptions, DpkgOpts: d.DpkgOptions, Mirror: s.options.Mirror, TempDir: temp,
			Scripts: scripts,
			Files:   func(w *tar.Writer) error { return errors.Join(d.writeFiles(w), fetched.writeTo(w)) },
		}, out, report)
		out.CloseWithError(err) // nil is the end of the stream
		built <- err
	}()
	found, err := store(dir, stream, report)
	stream.CloseWithError(err) // stops the build if it still runs
	// Either's error goes through the stream to the other: the first is the
	// cause.
	buildErr := <-built
	if buildErr != nil && (err == nil || errors.Is(err, buildErr)) {
		return m, buildErr
	}
	if err != nil {
		return m, err
	}
	if err := found.check(d); err != nil {
		return m, err
	}
	m.Source = found.source(ctx, d)
	return m, writeList(filepath.Join(dir, packageList), found.packages)
}

// store writes the root disk and tells what was in the stream.
func store(dir string, stream io.Reader, report progress.Func) (contents, error) {
	copied, tee := io.Pipe()
	type result struct {
		contents
		err error
	}
	inspected := make(chan result, 1)
	go func() {
		found, err := inspect(copied)
		copied.CloseWithError(err)
		inspected <- result{found, err}
	}()
	err := ext4.Write(filepath.Join(dir, rootDisk), counted(io.TeeReader(stream, tee), report), ext4.MaxSize)
	tee.CloseWithError(err)
	found := <-inspected
	if err == nil {
		err = found.err
	}
	return found.contents, err
}

// counted reports how much of what becomes an image has gone through it.
func counted(stream io.Reader, report progress.Func) io.Reader {
	return io.TeeReader(stream, &streams.Counter{Text: "writing the image", Report: report})
}

func writeList(path string, packages []pkg) error {
	var text []byte
	for _, p := range packages {
		text = fmt.Appendf(text, "%s %s\n", p.name, p.version)
	}
	if err := os.WriteFile(path, text, 0o644); err != nil {
		return fmt.Errorf("cannot write the list of packages: %w", err)
	}
	return nil
}

// writeFiles writes the files that come with the definition.
func (d *Definition) writeFiles(w *tar.Writer) error {
	for _, file := range d.Files {
		data, err := d.dirs.read(file.Source)
		if err != nil {
			return err
		}
		perm, err := mode(file.Mode)
		if err != nil {
			return err
		}
		err = w.WriteHeader(&tar.Header{Name: "." + file.Path, Mode: perm, Size: int64(len(data)), ModTime: time.Now()})
		if err != nil {
			return err
		}
		if _, err := w.Write(data); err != nil {
			return err
		}
	}
	return nil
}

// checkSpace refuses work that could not be finished.
func (d *Definition) checkSpace(imageDir, buildDir string) error {
	forImage, err := size.Parse(d.ImageSpace)
	if err != nil {
		return err
	}
	forBuild, err := size.Parse(d.BuildSpace)
	if err != nil {
		return err
	}
	var a, b unix.Stat_t
	if err := errors.Join(unix.Stat(imageDir, &a), unix.Stat(buildDir, &b)); err != nil {
		return fmt.Errorf("cannot measure the free space: %w", err)
	}
	if a.Dev == b.Dev {
		return needSpace(d.name, imageDir, forImage+forBuild)
	}
	return errors.Join(needSpace(d.name, imageDir, forImage), needSpace(d.name, buildDir, forBuild))
}

func needSpace(name, dir string, need int64) error {
	err := space.Need(dir, need)
	if lacks, ok := errors.AsType[*api.Error](err); ok {
		return &api.Error{
			Kind: lacks.Kind, Message: fmt.Sprintf("cannot build image %q: %s", name, lacks.Message),
			Hint: "free some space, or set TMPDIR to where the build may use more",
		}
	}
	return err
}
