package kernel

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"

	"banger/internal/api"
	"banger/internal/bundle"
	"banger/internal/objects"
	"banger/internal/progress"
)

// Export packs a kernel into a file.
func (s *Store) Export(ctx context.Context, name string, request api.Export, report progress.Func) (api.Exported, error) {
	kernel, err := s.Get(name)
	if err != nil {
		return api.Exported{}, err
	}
	return bundle.Export(ctx, kernel.Object, bundle.KindKernel, request.Path, report)
}

// PullBundle gets the kernel that a bundle at a URL has.
func (s *Store) PullBundle(ctx context.Context, request api.Pull, report progress.Func) (Kernel, error) {
	return s.importBundle(ctx, bundle.Request{Location: request.Name, Name: request.As, Insecure: request.Insecure, Untrusted: request.Untrusted}, report)
}

// Import makes a kernel of a file on this host.
func (s *Store) Import(ctx context.Context, request api.Import, report progress.Func) (Kernel, error) {
	kernel, err := s.importBundle(ctx, bundle.Request{Location: request.Path, Name: request.Name, Untrusted: request.Untrusted}, report)
	if errors.Is(err, bundle.ErrNoBundle) {
		return Kernel{}, &api.Error{Kind: api.KindUsage, Message: fmt.Sprintf("cannot import %q: %v", request.Path, err), Hint: "'banger kernel export' makes bundles"}
	}
	return kernel, err
}

func (s *Store) importBundle(ctx context.Context, request bundle.Request, report progress.Func) (Kernel, error) {
	request.Kind = bundle.KindKernel
	if s.opts.Trusted != nil {
		var err error
		if request.Trusted, err = s.opts.Trusted(); err != nil {
			return Kernel{}, err
		}
	}
	object, err := bundle.Import(ctx, s.objects, request, checkParts, report)
	if err != nil {
		return Kernel{}, err
	}
	return Kernel{object}, nil
}

// checkParts tells whether what others describe is a kernel.
func checkParts(c objects.Contents[Manifest]) error {
	need := map[string]bool{partVmlinux: true, partModules: true}
	for _, name := range c.Manifest.BootModules {
		if name == "" || strings.ContainsAny(name, "/\x00") {
			return fmt.Errorf("%q is no name of a module", name)
		}
		need[path.Join(dirBootModules, name)] = true
	}
	for _, part := range c.Parts {
		if !need[part.Path] {
			return fmt.Errorf("it has %q, which this kernel does not need", part.Path)
		}
		delete(need, part.Path)
	}
	for name := range need {
		return fmt.Errorf("it has no %q", name)
	}
	if v := c.Manifest.Version; v == "" || strings.ContainsAny(v, "/\x00 \n") {
		return fmt.Errorf("%q is no version of a kernel", v)
	}
	return nil
}
