package kernel

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"

	"banger/internal/api"
	"banger/internal/bundle"
	"banger/internal/catalog"
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
		if strings.HasSuffix(request.Path, packageExtension) {
			return s.importDeb(ctx, request, report)
		}
		return Kernel{}, &api.Error{Kind: api.KindUsage, Message: fmt.Sprintf("cannot import %q: %v, and no Debian package", request.Path, err), Hint: "'banger kernel export' makes bundles"}
	}
	return kernel, err
}

func (s *Store) importBundle(ctx context.Context, request bundle.Request, report progress.Func) (Kernel, error) {
	request.Kind = bundle.KindKernel
	settings, err := s.opts.Load()
	if err != nil {
		return Kernel{}, err
	}
	request.Trusted = settings.TrustedKeys
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

// offers are what the catalogs of the configuration have; the error tells about
// those that could not be had.
func (s *Store) offers(ctx context.Context) ([]catalog.Entry, error) {
	settings, err := s.opts.Load()
	if err != nil {
		return nil, err
	}
	return catalog.Offers(ctx, settings.CatalogURLs, func(c catalog.Catalog) []catalog.Entry { return c.Kernels })
}

// Offers returns what the catalogs of the configuration have. Those that cannot
// be had are warnings.
func (s *Store) Offers(ctx context.Context, report progress.Func) []api.Kernel {
	offers, err := s.offers(ctx)
	if err != nil {
		report.Warn(err.Error())
	}
	list := make([]api.Kernel, 0, len(offers))
	for _, entry := range offers {
		list = append(list, api.Kernel{
			Name: entry.Name, Description: entry.Description, Origin: entry.Origin,
			Digest: entry.Bundle.Digest, Source: map[string]string{"bundle": entry.Bundle.URL},
		})
	}
	return list
}

// pullOffer gets a kernel that is not in the catalog of this binary.
func (s *Store) pullOffer(ctx context.Context, name string, report progress.Func) (Kernel, error) {
	offers, err := s.offers(ctx)
	for _, entry := range offers {
		if entry.Name == name {
			return s.importBundle(ctx, bundle.Request{Location: entry.Bundle.URL, Name: name, Digest: entry.Bundle.Digest}, report)
		}
	}
	message := fmt.Sprintf("no kernel %q, neither in the store nor in a catalog", name)
	if err != nil { // it may have had it
		message += ": " + err.Error()
	}
	builtIn, err := recipes()
	if err != nil {
		return Kernel{}, err
	}
	var names []string
	for _, r := range builtIn {
		names = append(names, r.name)
	}
	return Kernel{}, &api.Error{Kind: api.KindNotFound, Message: message, Hint: "banger has: " + strings.Join(names, ", ") + "; 'banger kernel list --available' also asks other catalogs"}
}
