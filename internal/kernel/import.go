package kernel

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"banger/internal/api"
	"banger/internal/bundle"
	"banger/internal/objects"
	"banger/internal/progress"
)

// importHook writes to stdout the archive that [unpack] expects, of the package
// $deb.
const importHook = `set -eu
mkdir kernel
cd kernel
` + unpackHook + `cd ..
tar -c kernel
`

// Import makes a kernel of a file on this host.
func (s *Store) Import(ctx context.Context, request api.Import, report progress.Func) (Kernel, error) {
	object, err := s.exchange.Import(ctx, request, report)
	if errors.Is(err, bundle.ErrNoBundle) {
		if strings.HasSuffix(request.Path, packageExtension) {
			return s.importDeb(ctx, request, report)
		}
		return Kernel{}, &api.Error{Kind: api.KindUsage, Message: fmt.Sprintf("cannot import %q: %v, and no Debian package", request.Path, err), Hint: "'banger kernel export' makes bundles"}
	}
	return Kernel{object}, err
}

// importDeb makes a kernel of a Debian package on this host, which must have
// the kernel and its modules.
func (s *Store) importDeb(ctx context.Context, request api.Import, report progress.Func) (Kernel, error) {
	name := request.Name
	if name == "" {
		name, _, _ = strings.Cut(strings.TrimSuffix(filepath.Base(request.Path), packageExtension), "_")
	}
	used := false
	object, err := s.objects.Fill(ctx, name, func(ctx context.Context, dir string) (Manifest, error) {
		used = true
		return unpackDeb(ctx, request.Path, dir, report)
	})
	switch {
	case err == nil && !used:
		return Kernel{}, &api.Error{Kind: api.KindExists, Message: fmt.Sprintf("cannot import %q: there is a kernel %q", request.Path, name), Hint: "choose another name with --name"}
	case errors.Is(err, objects.ErrBadName):
		return Kernel{}, s.explain(name, err)
	case err != nil:
		return Kernel{}, fmt.Errorf("cannot import %q: %w", request.Path, err)
	}
	return Kernel{object}, nil
}

const packageExtension = ".deb"

func unpackDeb(ctx context.Context, deb, dir string, report progress.Func) (_ Manifest, err error) {
	if err := checkTools(); err != nil {
		return Manifest{}, err
	}
	// It must do what the catalog's kernels do.
	offered, err := recipes()
	if err != nil {
		return Manifest{}, err
	}
	work := filepath.Join(dir, ".unpacked")
	if err := os.Mkdir(work, 0o700); err != nil {
		return Manifest{}, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }() // it is no part of the kernel
	archive, err := os.Create(filepath.Join(work, "kernel.tar"))
	if err != nil {
		return Manifest{}, err
	}
	defer archive.Close()
	report.Step("unpacking the package")
	cmd := exec.CommandContext(ctx, "sh", "-c", importHook)
	cmd.Dir, cmd.Env, cmd.Stdout = work, append(os.Environ(), "deb="+deb), archive
	var said bytes.Buffer
	cmd.Stderr = &said
	if err := cmd.Run(); err != nil {
		for line := range strings.Lines(said.String()) {
			if !strings.HasPrefix(line, "I: ") { // the first that complains knows why
				err = errors.New(strings.TrimSpace(line))
				break
			}
		}
		return Manifest{}, fmt.Errorf("cannot unpack the package: %w", err)
	}
	report.Step("building the kernel's files")
	recipe := recipe{Description: "of the package " + filepath.Base(deb), BootModules: offered[0].BootModules}
	return unpack(ctx, io.ReadSeeker(archive), recipe, dir)
}
