package image

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"banger/internal/api"
	"banger/internal/bundle"
	"banger/internal/catalog"
	"banger/internal/objects"
	"banger/internal/progress"
)

// Export packs an image into a file.
func (s *Store) Export(ctx context.Context, name string, request api.Export, report progress.Func) (api.Exported, error) {
	if _, err := s.Get(name); err != nil { // says more than the next
		return api.Exported{}, err
	}
	object, err := s.objects.Get(name)
	if err != nil {
		return api.Exported{}, err
	}
	return bundle.Export(ctx, object, bundle.KindImage, request.Path, report)
}

// PullBundle gets the image that a bundle at a URL has.
func (s *Store) PullBundle(ctx context.Context, request api.Pull, report progress.Func) (Image, error) {
	return s.importBundle(ctx, bundle.Request{Location: request.Name, Name: request.As, Insecure: request.Insecure, Untrusted: request.Untrusted}, report)
}

func (s *Store) importBundle(ctx context.Context, request bundle.Request, report progress.Func) (Image, error) {
	request.Kind = bundle.KindImage
	settings, err := s.options.Load()
	if err != nil {
		return Image{}, err
	}
	request.Trusted = settings.TrustedKeys
	object, err := bundle.Import(ctx, s.objects, request, checkParts, report)
	if err != nil {
		return Image{}, err
	}
	return fromObject(object), nil
}

// checkParts tells whether what others describe is an image.
func checkParts(c objects.Contents[Manifest]) error {
	has := func(name string) bool {
		return slices.ContainsFunc(c.Parts, func(part objects.Part) bool { return part.Path == name })
	}
	for _, part := range c.Parts {
		if part.Path != rootDisk && part.Path != packageList {
			return fmt.Errorf("it has %q, which no image has", part.Path)
		}
	}
	if !has(rootDisk) {
		return errors.New("it has no " + rootDisk)
	}
	if err := objects.CheckName(c.Manifest.Kernel); err != nil {
		return fmt.Errorf("cannot use the name of its kernel: %w", err)
	}
	return nil
}

// offers are what the catalogs of the configuration have; the error tells about
// those that could not be had.
func (s *Store) offers(ctx context.Context) ([]catalog.Entry, error) {
	settings, err := s.options.Load()
	if err != nil {
		return nil, err
	}
	return catalog.Offers(ctx, settings.CatalogURLs, func(c catalog.Catalog) []catalog.Entry { return c.Images })
}

// Offers returns what the catalogs of the configuration have. Those that cannot
// be had are warnings.
func (s *Store) Offers(ctx context.Context, report progress.Func) []api.Image {
	offers, err := s.offers(ctx)
	if err != nil {
		report.Warn(err.Error())
	}
	list := make([]api.Image, 0, len(offers))
	for _, entry := range offers {
		list = append(list, api.Image{
			Name: entry.Name, Kernel: entry.Kernel, Description: entry.Description, Origin: entry.Origin,
			Digest: entry.Bundle.Digest, Source: map[string]string{"bundle": entry.Bundle.URL},
		})
	}
	return list
}

// pullOffer gets an image that is not in the catalog of this binary.
func (s *Store) pullOffer(ctx context.Context, name string, report progress.Func) (Image, error) {
	offers, err := s.offers(ctx)
	for _, entry := range offers {
		if entry.Name == name {
			return s.importBundle(ctx, bundle.Request{Location: entry.Bundle.URL, Name: name, Digest: entry.Bundle.Digest}, report)
		}
	}
	message := fmt.Sprintf("no image %q", name)
	if err != nil { // it may have had it
		message += ": " + err.Error()
	}
	return Image{}, &api.Error{Kind: api.KindNotFound, Message: message, Hint: "banger has: " + strings.Join(s.names(), ", ") + "; 'banger image list --available' also asks other catalogs"}
}
