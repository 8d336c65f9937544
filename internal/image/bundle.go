package image

import (
	"context"
	"errors"
	"fmt"

	"banger/internal/api"
	"banger/internal/bundle"
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
	return imageOf(s.exchange.Pull(ctx, request, report))
}

// imageOf makes an image of what the store answers.
func imageOf(object objects.Object[Manifest], err error) (Image, error) {
	if err != nil {
		return Image{}, err
	}
	return fromObject(object), nil
}

// checkParts tells whether what others describe is an image.
func checkParts(c objects.Contents[Manifest]) error {
	hasDisk := false
	for _, part := range c.Parts {
		if part.Path != rootDisk && part.Path != packageList {
			return fmt.Errorf("it has %q, which no image has", part.Path)
		}
		hasDisk = hasDisk || part.Path == rootDisk
	}
	if !hasDisk {
		return errors.New("it has no " + rootDisk)
	}
	if err := objects.CheckName(c.Manifest.Kernel); err != nil {
		return fmt.Errorf("cannot use the name of its kernel: %w", err)
	}
	return nil
}

// Offers returns what the catalogs of the configuration have. Those that cannot
// be had are warnings.
func (s *Store) Offers(ctx context.Context, report progress.Func) []api.Image {
	var list []api.Image
	for _, entry := range s.exchange.Offers(ctx, report) {
		list = append(list, api.Image{
			Name: entry.Name, Kernel: entry.Kernel, Description: entry.Description, Origin: entry.Origin,
			Digest: entry.Bundle.Digest, Source: map[string]string{"bundle": entry.Bundle.URL},
		})
	}
	return list
}
