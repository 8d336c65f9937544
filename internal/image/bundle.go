package image

import (
	"context"
	"errors"
	"fmt"
	"slices"

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
	return s.importBundle(ctx, bundle.Request{Location: request.Name, Name: request.As, Insecure: request.Insecure, Untrusted: request.Untrusted}, report)
}

func (s *Store) importBundle(ctx context.Context, request bundle.Request, report progress.Func) (Image, error) {
	request.Kind = bundle.KindImage
	if s.options.Trusted != nil {
		var err error
		if request.Trusted, err = s.options.Trusted(); err != nil {
			return Image{}, err
		}
	}
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
