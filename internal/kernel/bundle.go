package kernel

import (
	"context"
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
	object, err := s.exchange.Pull(ctx, request, report)
	return Kernel{object}, err
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
	return checkRequired(c.Manifest.Features)
}

// Offers returns what the catalogs of the configuration have. Those that cannot
// be had are warnings.
func (s *Store) Offers(ctx context.Context, report progress.Func) []api.Kernel {
	var list []api.Kernel
	for _, entry := range s.exchange.Offers(ctx, report) {
		list = append(list, api.Kernel{
			Name: entry.Name, Description: entry.Description, Origin: entry.Origin,
			Digest: entry.Bundle.Digest, Source: map[string]string{"bundle": entry.Bundle.URL},
		})
	}
	return list
}
