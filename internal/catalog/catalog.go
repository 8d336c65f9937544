// Package catalog reads lists of images and kernels that can be had: the one
// in this binary, and those that the configuration names. docs/image-catalog.md
// has the format.
package catalog

import (
	"bytes"
	"context"
	_ "embed" // the catalog of this binary
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"time"

	"golang.org/x/sync/errgroup"

	"banger/internal/download"
	"banger/internal/objects"
)

// Catalog is one list.
type Catalog struct {
	Format  int     `json:"format"`
	Images  []Entry `json:"images"`
	Kernels []Entry `json:"kernels"`
}

// Entry is an image or kernel that can be had: made by a definition of this
// binary, or in a bundle.
type Entry struct {
	Name        string `json:"name"`
	Description string `json:"description,omitempty"`
	// Kernel is what an image boots with.
	Kernel string `json:"kernel,omitempty"`
	// Definition is the name of one in this binary. Either it is set or Bundle.
	Definition string  `json:"definition,omitempty"`
	Bundle     *Bundle `json:"bundle,omitempty"`

	// Origin is where the catalog came from: its URL, as users see it, or [BuiltIn].
	Origin string `json:"-"`
}

// Bundle is where a bundle is and what is in it.
type Bundle struct {
	// URL may be relative to that of the catalog.
	URL    string `json:"url"`
	Digest string `json:"digest"`         // as `image show` has it
	Size   int64  `json:"size,omitempty"` // of the download, in bytes
}

// BuiltIn is the origin of what this binary has.
const BuiltIn = "built in"

const (
	format = 1
	// maxCatalog and maxEntries bound a catalog from outside.
	maxCatalog = 4 << 20
	maxEntries = 10_000
	// timeout bounds the wait for all catalogs.
	timeout = 20 * time.Second
)

//go:embed catalog.json
var embedded []byte

// Embedded returns the catalog of this binary.
func Embedded() (Catalog, error) {
	c, err := parse(embedded, nil)
	if err != nil {
		return c, fmt.Errorf("cannot read the catalog of this binary: %w", err)
	}
	return c, nil
}

var digest = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

// parse reads a catalog, which is from base, or this binary's.
func parse(data []byte, base *url.URL) (Catalog, error) {
	var c Catalog
	decoder := json.NewDecoder(bytes.NewReader(data))
	if err := decoder.Decode(&c); err != nil {
		return c, err
	}
	if c.Format != format {
		return c, fmt.Errorf("it has format %d, and this version of banger knows format %d", c.Format, format)
	}
	if len(c.Images)+len(c.Kernels) > maxEntries {
		return c, fmt.Errorf("it has more than %d entries", maxEntries)
	}
	for _, list := range [][]Entry{c.Images, c.Kernels} {
		for i := range list {
			if err := list[i].complete(base); err != nil {
				return c, fmt.Errorf("its entry %q: %w", list[i].Name, err)
			}
		}
	}
	return c, nil
}

// complete checks an entry and makes its URL absolute.
func (e *Entry) complete(base *url.URL) error {
	if err := objects.CheckName(e.Name); err != nil {
		return err
	}
	e.Origin = BuiltIn
	if base != nil {
		e.Origin = download.Redacted(base)
	}
	switch {
	case (e.Definition == "") == (e.Bundle == nil):
		return errors.New("it must have either a bundle or a definition")
	case e.Bundle == nil && base != nil:
		return errors.New("definitions are only for the catalog that is built in: it must have a bundle")
	case e.Bundle == nil:
		return nil
	case !digest.MatchString(e.Bundle.Digest):
		return fmt.Errorf("%q is no digest of a bundle", e.Bundle.Digest)
	case e.Bundle.Size < 0:
		return fmt.Errorf("its size is %d", e.Bundle.Size)
	}
	address, err := url.Parse(e.Bundle.URL)
	if err != nil {
		return err
	}
	if base != nil {
		address = base.ResolveReference(address)
	}
	if address.Host == "" || address.Scheme != "https" && address.Scheme != "http" {
		return fmt.Errorf("%q is no URL of a bundle", download.Redacted(address))
	}
	e.Bundle.URL = address.String()
	return nil
}

// Offers gets the catalogs at the URLs, all at once, and returns what list
// takes of them: what comes first has precedence. The error tells about
// catalogs that could not be had; what the others have is returned all the same.
func Offers(ctx context.Context, urls []string, list func(Catalog) []Entry) ([]Entry, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	catalogs, errs := make([]Catalog, len(urls)), make([]error, len(urls))
	var group errgroup.Group
	for i, location := range urls {
		group.Go(func() error {
			catalogs[i], errs[i] = fetch(ctx, location)
			return nil
		})
	}
	_ = group.Wait()
	var offers []Entry
	for _, c := range catalogs {
		offers = append(offers, list(c)...)
	}
	return offers, errors.Join(errs...)
}

func fetch(ctx context.Context, location string) (Catalog, error) {
	base, err := url.Parse(location)
	if err != nil {
		return Catalog{}, errors.New("cannot use a catalog: it is at no URL") // which may have a secret in it
	}
	var c Catalog
	data, err := download.Read(ctx, location, false, maxCatalog)
	if err == nil {
		c, err = parse(data, base)
	}
	if err != nil { // nothing of what is wrong in places
		return Catalog{}, fmt.Errorf("cannot use the catalog %q: %w", download.Redacted(base), err)
	}
	return c, nil
}
