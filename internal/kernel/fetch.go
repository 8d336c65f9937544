package kernel

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"banger/internal/api"
	"banger/internal/debian"
	"banger/internal/ext4"
	"banger/internal/kernel/bzimage"
	"banger/internal/progress"
	"banger/internal/streams"
	"banger/internal/tool"
)

// Limits of what is read from a package, in bytes; today's parts are far
// smaller.
const (
	maxImage   = 128 << 20 // vmlinuz
	maxSmall   = 8 << 20   // modules.dep and the like
	maxModule  = 32 << 20  // one module
	maxModules = 1 << 30   // the modules disk
)

// hook gets the package that the metapackage $package depends on, and nothing
// else that it depends on: apt verifies it as it would for an installation.
const hook = `set -eu
real=$(apt-cache --no-all-versions show "$package" | sed -n 's/^Depends: \(linux-image-[^ ,]*\).*/\1/p')
if [ -z "$real" ]; then echo "E: no kernel package found by way of $package" >&2; exit 1; fi
mkdir -p "$1/kernel"
cd "$1/kernel"
echo "I: downloading $real..." >&2
apt-get -qq download "$real"
deb=$(echo ./*.deb)
` + unpackHook + indexHook + `rm "$deb"
`

// unpackHook makes of the package $deb, in the directory that it runs in, a tree
// with /boot and /usr/lib/modules.
const unpackHook = `echo "I: unpacking $(basename "$deb")..." >&2
mkdir -p usr/lib
ln -s usr/lib lib # depmods and packages differ in where they look
dpkg-deb --field "$deb" Package Version >control
sha256sum "$deb" | cut -d' ' -f1 >sha256
dpkg-deb --fsys-tarfile "$deb" | tar -x --wildcards ./boot './*lib/modules'
`

// indexHook makes of that tree what [unpack] expects. Modules are not kept
// compressed: guests load them at every start, and pay for it each time.
const indexHook = `echo "I: unpacking and indexing the kernel's modules..." >&2
find usr/lib/modules -name '*.ko.xz' -print0 | xargs -0 -r -n 64 -P "$(nproc)" xz -d
PATH="$PATH:/usr/sbin:/sbin"
for dir in usr/lib/modules/*; do depmod -b "$PWD" "$(basename "$dir")"; done
`

// Check says what this machine lacks for fetching kernels, as an [api.Error]
// with a hint, or nil.
func Check(ctx context.Context) error {
	if err := debian.Check(ctx); err != nil {
		return err
	}
	err := checkTools("dpkg-deb", "depmod", "xz")
	if lacks, ok := errors.AsType[*api.Error](err); ok {
		return &api.Error{Kind: lacks.Kind, Message: "cannot fetch kernels: " + lacks.Message, Hint: lacks.Hint}
	}
	return err
}

// toolPackages are the packages that tools are in.
var toolPackages = map[string]string{"dpkg-deb": "dpkg", "depmod": "kmod", "xz": "xz-utils"}

// checkTools is an [api.Error] with a hint if this machine lacks one of the
// tools, or nil.
func checkTools(names ...string) error {
	var missing []string
	for _, name := range names {
		if _, err := tool.Find(name); err != nil {
			missing = append(missing, toolPackages[name])
		}
	}
	if len(missing) > 0 {
		return &api.Error{
			Kind:    api.KindState,
			Message: "this machine lacks " + strings.Join(missing, ", "),
			Hint:    "sudo apt-get install " + strings.Join(missing, " "),
		}
	}
	return nil
}

// fetch makes the parts of a kernel in dir.
func (s *Store) fetch(ctx context.Context, definition definition, dir string, report progress.Func) (Manifest, error) {
	if err := s.check(ctx); err != nil {
		return Manifest{}, err
	}
	file, err := os.OpenFile(filepath.Join(dir, ".package.tar"), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return Manifest{}, fmt.Errorf("cannot create a temporary file: %w", err)
	}
	defer file.Close()
	if err := os.Remove(file.Name()); err != nil { // it is no part of the kernel
		return Manifest{}, fmt.Errorf("cannot remove a temporary file: %w", err)
	}
	if err := s.bootstrap(ctx, debian.Options{
		Suite:        definition.Suite,
		Variant:      "extract",
		Mirror:       s.opts.Mirror,
		AptOptions:   []string{`Acquire::Languages "none"`},
		ExtractHooks: []string{"package=" + definition.Package + "\n" + hook},
	}, file, report); err != nil {
		return Manifest{}, err
	}
	report.Step("building the kernel's files")
	return unpack(ctx, inArchive(file), definition, dir, report)
}

// tree calls f for every entry of what a kernel comes in, as [hook] leaves it,
// with its name cleaned and relative to the root. It may be called again.
type tree func(ctx context.Context, f func(name string, header *tar.Header, r io.Reader) error) error

// unpack makes the parts of a kernel in dir.
func unpack(ctx context.Context, from tree, definition definition, dir string, report progress.Func) (Manifest, error) {
	found, err := scan(ctx, from)
	if err != nil {
		return Manifest{}, fmt.Errorf("cannot read the kernel's package: %w", err)
	}
	manifest := Manifest{Version: found.version, Description: definition.Description, Source: found.source}
	manifest.Source.Suite = definition.Suite
	if definition.Package != "" && (found.source.Package == "" || found.source.PackageVersion == "" || found.source.SHA256 == "") {
		return Manifest{}, errors.New("cannot read the kernel's package: it does not say which package it is")
	}
	if !strings.HasPrefix(found.version, definition.VersionPrefix) {
		return Manifest{}, fmt.Errorf("cannot use the kernel: its version is %q and should begin with %q", found.version, definition.VersionPrefix)
	}
	vmlinux, err := bzimage.Extract(ctx, found.image, 0)
	if err != nil {
		return Manifest{}, err
	}
	modules, err := parseModules(found.dependencies, found.builtin)
	if err != nil {
		return Manifest{}, fmt.Errorf("cannot find the modules to boot with: %w", err)
	}
	if found.config == nil {
		found.config = configIn(vmlinux)
	}
	var config map[string]string
	if found.config != nil {
		config = parseConfig(found.config)
	}
	manifest.Features = checkFeatures(modules, config)
	if err := checkRequired(manifest.Features); err != nil {
		return Manifest{}, err
	}
	warn(manifest.Features, report)
	if err := os.WriteFile(filepath.Join(dir, partVmlinux), vmlinux, 0o600); err != nil {
		return Manifest{}, fmt.Errorf("cannot write the kernel: %w", err)
	}
	names := definition.BootModules
	if modules.has(checksum) {
		names = append([]string{checksum}, names...)
	}
	order, err := modules.loadOrder(names)
	if err != nil {
		return Manifest{}, fmt.Errorf("cannot find the modules to boot with: %w", err)
	}
	if manifest.BootModules, err = writeModules(ctx, from, found, order, dir); err != nil {
		return Manifest{}, fmt.Errorf("cannot write the kernel's modules: %w", err)
	}
	return manifest, nil
}

// checksum is what ext4 asks for when it mounts, and does not depend on as a
// module: where it is one, it must be loaded before. Kernels since 6.15 have it
// elsewhere.
const checksum = "crc32c_generic"

// contents is what a first pass over an archive finds.
type contents struct {
	version               string
	built                 time.Time
	source                Source
	image                 []byte // vmlinuz
	dependencies, builtin []byte // modules.dep, modules.builtin
	config                []byte // nil if there is none
}

const (
	bootPrefix    = "kernel/boot/vmlinuz-"
	configPrefix  = "kernel/boot/config-"
	modulesPrefix = "kernel/usr/lib/modules/"
)

// scan reads everything and keeps what is small.
func scan(ctx context.Context, from tree) (contents, error) {
	var c contents
	var control, sum []byte
	err := from(ctx, func(name string, header *tar.Header, r io.Reader) (err error) {
		if header.Typeflag != tar.TypeReg {
			return nil
		}
		base := path.Base(name)
		switch {
		case strings.HasPrefix(name, bootPrefix):
			if c.version != "" {
				return errors.New("it has several kernels")
			}
			c.version, c.built = strings.TrimPrefix(name, bootPrefix), header.ModTime
			c.image, err = streams.ReadAll(r, maxImage)
		case strings.HasPrefix(name, configPrefix):
			c.config, err = streams.ReadAll(r, maxSmall)
		case name == "kernel/"+controlFile:
			control, err = streams.ReadAll(r, maxSmall)
		case name == "kernel/"+sumFile:
			sum, err = streams.ReadAll(r, maxSmall)
		case strings.HasPrefix(name, modulesPrefix) && base == "modules.dep":
			c.dependencies, err = streams.ReadAll(r, maxSmall)
		case strings.HasPrefix(name, modulesPrefix) && base == "modules.builtin":
			c.builtin, err = streams.ReadAll(r, maxSmall)
		}
		return err
	})
	c.source = packageSource(control, sum)
	switch {
	case err != nil:
		return c, err
	case c.version == "" || strings.ContainsAny(c.version, "/\x00 \n"):
		return c, errors.New("it has no kernel")
	case c.dependencies == nil:
		return c, errors.New("it has no modules.dep")
	}
	return c, nil
}

// What [unpackHook] says about a package.
const (
	controlFile = "control"
	sumFile     = "sha256"
)

func packageSource(control, sum []byte) Source {
	return Source{Package: field(control, "Package"), PackageVersion: field(control, "Version"), SHA256: string(bytes.TrimSpace(sum))}
}

// field returns the value of a field of a Debian control file.
func field(control []byte, name string) string {
	for line := range strings.Lines(string(control)) {
		if value, ok := strings.CutPrefix(line, name+": "); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// writeModules makes the modules disk and writes the boot modules, given by
// their paths below the version's directory in the order they are loaded in.
// It returns the names of the latter's files.
func writeModules(ctx context.Context, from tree, found contents, order []string, dir string) ([]string, error) {
	if err := os.Mkdir(filepath.Join(dir, dirBootModules), 0o700); err != nil {
		return nil, err
	}

	boot := make(map[string]bool)
	for _, name := range order {
		boot[name] = false // not written yet
	}
	reader, writer := io.Pipe()
	sent := make(chan error, 1)
	go func() {
		out := bufio.NewWriterSize(writer, 1<<20)
		tw := tar.NewWriter(out)
		err := eachModule(ctx, from, found, tw, func(name string, data []byte) error {
			if _, ok := boot[name]; !ok {
				return nil
			}
			boot[name] = true
			return os.WriteFile(filepath.Join(dir, dirBootModules, path.Base(name)), data, 0o600)
		})
		if err == nil {
			err = errors.Join(tw.Close(), out.Flush())
		}
		writer.CloseWithError(err) // nil is the end of file
		sent <- err
	}()
	err := ext4.Write(filepath.Join(dir, partModules), reader, maxModules)
	reader.CloseWithError(err) // lets the other side end if Write did not read all
	if sendErr := <-sent; sendErr != nil && !errors.Is(sendErr, io.ErrClosedPipe) {
		err = sendErr // what Write says then comes of it
	}
	if err != nil {
		return nil, err
	}
	names := make([]string, len(order))
	for i, name := range order {
		if !boot[name] {
			return nil, fmt.Errorf("the package does not have %q", name)
		}
		names[i] = path.Base(name)
	}
	return names, nil
}

// eachModule writes to tw the version's directory of the tree, as what
// belongs on /usr/lib/modules, with the signatures of modules taken off. All
// have the time of the kernel, so that one package always makes one disk. It
// calls f for each module with its path below that directory.
func eachModule(ctx context.Context, from tree, found contents, tw *tar.Writer, f func(name string, data []byte) error) error {
	return from(ctx, func(name string, header *tar.Header, r io.Reader) error {
		name, ok := strings.CutPrefix(name, modulesPrefix)
		if !ok || (name != found.version && !strings.HasPrefix(name, found.version+"/")) {
			return nil
		}
		switch header.Typeflag {
		case tar.TypeDir:
			return tw.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: name, ModTime: found.built, Mode: 0o755})
		case tar.TypeReg:
		default: // a link to the sources at most
			return nil
		}
		data, err := streams.ReadAll(r, maxModule)
		if err != nil {
			return fmt.Errorf("cannot read %q: %w", name, err)
		}
		if path.Ext(name) == ".ko" {
			data = withoutSignature(data)
			if err := f(strings.TrimPrefix(name, found.version+"/"), data); err != nil {
				return err
			}
		}
		if err := tw.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, ModTime: found.built, Mode: 0o644, Size: int64(len(data))}); err != nil {
			return err
		}
		_, err = tw.Write(data)
		return err
	})
}

// inArchive is the tree in a tar archive.
func inArchive(archive io.ReadSeeker) tree {
	return func(ctx context.Context, f func(name string, header *tar.Header, r io.Reader) error) error {
		if _, err := archive.Seek(0, io.SeekStart); err != nil {
			return err
		}
		return eachEntry(ctx, bufio.NewReaderSize(archive, 1<<20), f)
	}
}

// eachEntry calls f for every entry of a tar archive, with its name cleaned and
// relative to the root. One outside of the root is an error.
func eachEntry(ctx context.Context, archive io.Reader, f func(name string, header *tar.Header, r io.Reader) error) error {
	reader := tar.NewReader(archive)
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		header, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		name := path.Clean(header.Name)
		if !filepath.IsLocal(name) {
			return fmt.Errorf("it has an entry with the name %q", header.Name)
		}
		if err := f(name, header, reader); err != nil {
			return err
		}
	}
}
