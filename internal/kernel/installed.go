package kernel

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sync/errgroup"

	"banger/internal/api"
	"banger/internal/excerpt"
	"banger/internal/kernel/bzimage"
	"banger/internal/regular"
	"banger/internal/streams"
	"banger/internal/tool"
	"banger/internal/xz"
)

// installed says where the files of a kernel are, as distributions install
// them.
type installed struct {
	image   string // vmlinuz-VERSION, or the ELF file
	modules string // a directory called VERSION
	config  string // empty if there is none
}

// imagePrefixes are before the version in the names of kernels' images.
var imagePrefixes = []string{"vmlinuz-", "vmlinux-"}

// findInstalled finds what is asked for: the request's path is a kernel's image,
// or a directory with one in boot/. What it does not name is where it belongs.
func findInstalled(request api.Import) (installed, error) {
	files := installed{image: request.Path, modules: request.Modules, config: request.Config}
	info, err := os.Stat(request.Path)
	if err != nil {
		return files, err
	}
	if info.IsDir() {
		images, err := filepath.Glob(filepath.Join(escapeGlob(request.Path), "boot", imagePrefixes[0]+"*"))
		switch {
		case err != nil:
			return files, err
		case len(images) == 0:
			return files, usage("it has no kernel, boot/vmlinuz-VERSION", "name a kernel's image, a directory that has boot/ and lib/modules/, a linux-image-*.deb or a bundle")
		case len(images) > 1:
			return files, usage(fmt.Sprintf("it has %d kernels", len(images)), "name one of them: "+strings.Join(images, ", "))
		}
		files.image = images[0]
	}
	dir, version := filepath.Dir(files.image), ""
	for _, prefix := range imagePrefixes {
		if rest, ok := strings.CutPrefix(filepath.Base(files.image), prefix); ok {
			version = rest
		}
	}
	parent := filepath.Dir(dir)
	if files.modules == "" {
		files.modules = firstWith("modules.builtin", filepath.Join(parent, "lib/modules", version), filepath.Join(parent, "usr/lib/modules", version), dir)
		if files.modules == "" {
			return files, usage(fmt.Sprintf("%q is no bundle and no Debian package; if it is a kernel, its modules are not found", files.image), "name their directory with --modules")
		}
	}
	if files.config == "" {
		for _, place := range []string{filepath.Join(dir, "config-"+version), filepath.Join(files.modules, "config")} {
			if info, err := os.Stat(place); err == nil && info.Mode().IsRegular() {
				files.config = place
				break
			}
		}
	}
	return files, nil
}

// escapeGlob makes a pattern that means this path.
func escapeGlob(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}

// firstWith is the first of the directories that has the file.
func firstWith(file string, dirs ...string) string {
	for _, dir := range dirs {
		if _, err := os.Stat(filepath.Join(dir, file)); err == nil {
			return dir
		}
	}
	return ""
}

func usage(message, hint string) error {
	return &api.Error{Kind: api.KindUsage, Message: message, Hint: hint}
}

// stage makes of the files a tree, in the directory to, as [hook] leaves it.
func (k installed) stage(ctx context.Context, to string) error {
	image, info, err := regular.Read(k.image, maxImage)
	if err != nil {
		return fmt.Errorf("cannot read the kernel: %w", err)
	}
	vmlinux, err := bzimage.Extract(ctx, image, 0)
	if err != nil {
		return err
	}
	version, err := release(vmlinux)
	if err != nil {
		return err
	}
	modules, err := filepath.EvalSymlinks(k.modules)
	if err != nil {
		return fmt.Errorf("cannot read the modules: %w", err)
	}
	if filepath.Base(modules) != version {
		return usage(fmt.Sprintf("the kernel is %s, and %q is not the directory of its modules", version, k.modules), "modules are in a directory that is called as the kernel's version")
	}
	boot, lib := filepath.Join(to, "boot"), filepath.Join(to, "usr/lib")
	if err := errors.Join(os.MkdirAll(boot, 0o700), os.MkdirAll(lib, 0o700), os.Symlink("usr/lib", filepath.Join(to, "lib"))); err != nil { // depmods differ in where they look
		return err
	}
	staged := filepath.Join(boot, "vmlinuz-"+version)
	if err := errors.Join(os.WriteFile(staged, vmlinux, 0o600), os.Chtimes(staged, info.ModTime(), info.ModTime())); err != nil {
		return err
	}
	if k.config != "" {
		config, _, err := regular.Read(k.config, maxSmall)
		if err != nil {
			return fmt.Errorf("cannot read the kernel's configuration: %w", err)
		}
		if err := os.WriteFile(filepath.Join(boot, "config-"+version), config, 0o600); err != nil {
			return err
		}
	}
	if err := copyModules(ctx, modules, filepath.Join(lib, "modules", version)); err != nil {
		return fmt.Errorf("cannot read the modules: %w", err)
	}
	depmod, err := tool.Find("depmod")
	if err != nil {
		return fmt.Errorf("cannot index the modules: %w", err)
	}
	said := new(excerpt.Writer)
	cmd := exec.CommandContext(ctx, depmod, "-b", to, version)
	cmd.Stdout, cmd.Stderr = said, said
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("cannot index the modules: %w: %s", err, strings.TrimSpace(said.String()))
	}
	return nil
}

// banner is before the version in a kernel.
const banner = "Linux version "

// release finds what `uname -r` says with this kernel.
func release(vmlinux []byte) (string, error) {
	for rest := vmlinux; ; {
		_, after, ok := bytes.Cut(rest, []byte(banner))
		if !ok {
			return "", errors.New("the kernel does not tell its version")
		}
		version, _, _ := bytes.Cut(after[:min(len(after), 65)], []byte(" ")) // struct new_utsname has 65
		// The same text is also in formats: "%s version %s".
		if v := string(version); strings.Trim(v, "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.+-_~") == "" && v != "" && filepath.IsLocal(v) {
			return v, nil
		}
		rest = after
	}
}

// copyModules copies a directory of modules, which come to be not compressed:
// guests load them at every start, and pay for it each time. What depmod makes
// and links are left out.
func copyModules(ctx context.Context, from, to string) (err error) {
	root, err := os.OpenRoot(from)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(runtime.GOMAXPROCS(0))
	var total atomic.Int64
	walked := fs.WalkDir(root.FS(), ".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() {
			return os.MkdirAll(filepath.Join(to, name), 0o700)
		}
		module, open := decompressor(name)
		index := filepath.Dir(name) == "." && strings.HasPrefix(name, "modules.") && !strings.HasSuffix(name, ".bin")
		if !entry.Type().IsRegular() || open == nil && !index {
			return nil
		}
		if !index {
			name, module = module, name
		} else {
			module, open = name, plain
		}
		group.Go(func() error {
			if err := ctx.Err(); err != nil {
				return err
			}
			data, err := readModule(ctx, root, module, open)
			if err == nil && total.Add(int64(len(data))) > maxModules {
				err = fmt.Errorf("they have more than %d MiB", maxModules>>20)
			}
			if err != nil {
				return err
			}
			return os.WriteFile(filepath.Join(to, name), data, 0o600)
		})
		return ctx.Err()
	})
	return errors.Join(group.Wait(), walked)
}

// decompress opens what is compressed.
type decompress func(context.Context, io.Reader) (io.ReadCloser, error)

func plain(_ context.Context, r io.Reader) (io.ReadCloser, error) { return io.NopCloser(r), nil }

// decompressor returns what a module is called when it is not compressed, and
// how that is done; nil if the file is no module.
func decompressor(name string) (string, decompress) {
	for suffix, open := range map[string]decompress{
		"":    plain,
		".xz": func(ctx context.Context, r io.Reader) (io.ReadCloser, error) { return xz.NewReader(ctx, r) },
		".zst": func(_ context.Context, r io.Reader) (io.ReadCloser, error) {
			decoder, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxModule), zstd.WithDecoderLowmem(true))
			if err != nil {
				return nil, err
			}
			return decoder.IOReadCloser(), nil
		},
		".gz": func(_ context.Context, r io.Reader) (io.ReadCloser, error) { return gzip.NewReader(r) },
	} {
		if module, ok := strings.CutSuffix(name, suffix); ok && filepath.Ext(module) == ".ko" {
			return module, open
		}
	}
	return "", nil
}

func readModule(ctx context.Context, root *os.Root, name string, open decompress) (_ []byte, err error) {
	file, err := root.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	r, err := open(ctx, file)
	if err != nil {
		return nil, fmt.Errorf("cannot unpack %q: %w", name, err)
	}
	defer r.Close()
	data, err := streams.ReadAll(r, maxModule)
	if err != nil {
		return nil, fmt.Errorf("cannot unpack %q: %w", name, err)
	}
	return data, nil
}

// inDirectory is the tree in a directory. Links and what else is no file or
// directory are left out.
func inDirectory(dir string) tree {
	return func(ctx context.Context, f func(name string, header *tar.Header, r io.Reader) error) error {
		return fs.WalkDir(os.DirFS(dir), ".", func(name string, entry fs.DirEntry, err error) error {
			if err == nil {
				err = ctx.Err()
			}
			if err != nil || !entry.IsDir() && !entry.Type().IsRegular() {
				return err
			}
			info, err := entry.Info()
			if err != nil {
				return err
			}
			header, err := tar.FileInfoHeader(info, "")
			if err != nil {
				return err
			}
			if entry.IsDir() {
				return f(name, header, nil)
			}
			file, err := os.Open(filepath.Join(dir, name))
			if err != nil {
				return err
			}
			defer file.Close()
			return f(name, header, file)
		})
	}
}
