package bundle

import (
	"context"
	"fmt"
	"strings"

	"banger/internal/api"
	"banger/internal/catalog"
	"banger/internal/config"
	"banger/internal/objects"
	"banger/internal/progress"
)

// Exchange is how objects of a store come to other hosts and from there: in
// bundles, which catalogs tell about. Errors are as those of [Export] and
// [Import].
type Exchange[M any] struct {
	Store *objects.Store[M]
	Kind  string
	// Check is as in [Import].
	Check func(objects.Contents[M]) error
	// Load reads the configuration anew, which has whom bundles are taken from
	// and where catalogs are; nil is one that says nothing.
	Load func() (config.Config, error)
}

// Pull gets the object that a bundle at a URL has.
func (x Exchange[M]) Pull(ctx context.Context, request api.Pull, report progress.Func) (objects.Object[M], error) {
	return x.take(ctx, Request{Location: request.Name, Name: request.As, Insecure: request.Insecure, Untrusted: request.Untrusted}, report)
}

// Import gets the object that a bundle on this host has.
func (x Exchange[M]) Import(ctx context.Context, request api.Import, report progress.Func) (objects.Object[M], error) {
	return x.take(ctx, Request{Location: request.Path, Name: request.Name, Untrusted: request.Untrusted}, report)
}

func (x Exchange[M]) take(ctx context.Context, request Request, report progress.Func) (objects.Object[M], error) {
	settings, err := x.settings()
	if err != nil {
		return objects.Object[M]{}, err
	}
	request.Kind, request.Trusted = x.Kind, settings.TrustedKeys
	return Import(ctx, x.Store, request, x.Check, report)
}

func (x Exchange[M]) settings() (config.Config, error) {
	if x.Load == nil {
		return config.Config{}, nil
	}
	return x.Load()
}

// Offers returns what the catalogs of the configuration have. Those that cannot
// be had are warnings.
func (x Exchange[M]) Offers(ctx context.Context, report progress.Func) []catalog.Entry {
	offers, err := x.offers(ctx)
	if err != nil {
		report.Warn(err.Error())
	}
	return offers
}

func (x Exchange[M]) offers(ctx context.Context) ([]catalog.Entry, error) {
	settings, err := x.settings()
	if err != nil {
		return nil, err
	}
	return catalog.Offers(ctx, settings.CatalogURLs, func(c catalog.Catalog) []catalog.Entry {
		if x.Kind == KindKernel {
			return c.Kernels
		}
		return c.Images
	})
}

// PullOffer gets what is neither in the store nor among builtIn, which banger
// has itself.
func (x Exchange[M]) PullOffer(ctx context.Context, name string, builtIn []string, report progress.Func) (objects.Object[M], error) {
	offers, err := x.offers(ctx)
	for _, entry := range offers {
		if entry.Name == name {
			return x.take(ctx, Request{Location: entry.Bundle.URL, Name: name, Digest: entry.Bundle.Digest}, report)
		}
	}
	message := fmt.Sprintf("no %s %q, neither in the store nor in a catalog", x.Kind, name)
	if err != nil { // it may have had it
		message += ": " + err.Error()
	}
	return objects.Object[M]{}, &api.Error{
		Kind: api.KindNotFound, Message: message,
		Hint: fmt.Sprintf("banger has: %s; 'banger %s list --available' also asks other catalogs", strings.Join(builtIn, ", "), x.Kind),
	}
}
