// Package image keeps the images that VMs boot: read-only root file systems
// with what is known about them. Images of the catalog, which is part of the
// binary, are built on this machine from the distribution's signed archive.
package image

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"banger/images"
	"banger/internal/api"
	"banger/internal/bundle"
	"banger/internal/catalog"
	"banger/internal/config"
	"banger/internal/image/oci"
	"banger/internal/objects"
	"banger/internal/progress"
	"banger/internal/space"
)

// The parts of an image.
const (
	rootDisk    = "root.ext4"
	packageList = "packages.txt"
)

// Manifest is what is stored about an image.
type Manifest struct {
	Description string `json:"description"`
	// Kernel is the name of the kernel it boots by default.
	Kernel string `json:"kernel"`
	// Init is the path of its init in the guest, empty if it has none.
	Init string `json:"init,omitempty"`
	// Source says where it comes from, for people.
	Source map[string]string `json:"source"`
	// Notes are what a user should know, such as what could not be had.
	Notes []string `json:"notes,omitempty"`
	// Container is what a container image says about its programs.
	Container *api.ContainerConfig `json:"container,omitempty"`
}

// Image is an image in the store.
type Image struct {
	Name   string
	Digest string // of the image and all that is told about it: "sha256:HEX"
	Dir    string
	Size   int64 // bytes on disk
	// Created is when it was put in the store under its name.
	Created time.Time
	Origin  objects.Origin
	Manifest
}

// RootDisk is the path of the ext4 file system. It is shared by all VMs of the
// image and must not be written to.
func (i Image) RootDisk() string { return filepath.Join(i.Dir, rootDisk) }

// API is the image as the daemon shows it; who uses it is not known here.
func (i Image) API() api.Image {
	return api.Image{
		Name: i.Name, Present: true, Digest: i.Digest, Size: i.Size, Created: i.Created,
		Kernel: i.Kernel, Description: i.Description, Source: i.Source, Notes: i.Notes,
		Init: i.Init, Container: i.Container, Received: bundle.Received(i.Origin),
	}
}

// Usage is what an image takes on the disk, without what its VMs do.
func (s *Store) Usage(name string) (api.ImageUsage, error) {
	usage, err := s.objects.Usage(name)
	if err != nil {
		return api.ImageUsage{}, fmt.Errorf("cannot measure the image %q: %w", name, err)
	}
	return api.ImageUsage{Private: usage.Private, Shared: usage.Shared, SharedWith: usage.Names}, nil
}

// Options of a [Store]; the zero value is good.
type Options struct {
	// Mirror is where packages come from, if not from the default place.
	Mirror string
	// TempDir is where trees are built; see [debian.Options].
	TempDir string
	// CacheDir is where layers of container images are kept.
	CacheDir string
	// Load reads the configuration anew, which has whom bundles are taken from
	// and where catalogs are; nil is one that says nothing.
	Load func() (config.Config, error)
}

// Store keeps images in a directory. It may be used from any goroutine, and by
// several processes at once.
type Store struct {
	dir     string
	objects *objects.Store[Manifest]
	catalog map[string]*Definition
	blobs   *oci.Blobs
	options Options
	// exchange is with other hosts.
	exchange bundle.Exchange[Manifest]
}

// Open returns the store in dir, with the catalog of this binary.
func Open(dir string, options Options) (*Store, error) {
	definitions, err := readCatalog(images.FS)
	if err != nil {
		return nil, err
	}
	builtIn, err := catalog.Embedded()
	if err != nil {
		return nil, err
	}
	offered := make(map[string]*Definition)
	for _, entry := range builtIn.Images {
		if offered[entry.Name] = definitions[entry.Definition]; offered[entry.Name] == nil {
			return nil, fmt.Errorf("the image catalog has no definition %q", entry.Definition)
		}
	}
	store := objects.Open[Manifest](dir)
	return &Store{
		dir: dir, objects: store, catalog: offered, options: options, blobs: oci.OpenBlobs(options.CacheDir),
		exchange: bundle.Exchange[Manifest]{Store: store, Kind: bundle.KindImage, Check: checkParts, Load: options.Load},
	}, nil
}

// Pull returns the image of that name, after building it if it is not in the
// store. Of two pulls of one image, one builds and the other waits for it.
// When ctx is canceled nothing is kept. The error is an [api.Error] where
// something can be done about it.
func (s *Store) Pull(ctx context.Context, name string, report progress.Func) (Image, error) {
	if image, err := s.Get(name); err == nil {
		return image, nil
	}
	definition := s.catalog[name]
	if definition == nil && oci.IsReference(name) {
		ref, as, err := s.referenceName(api.Pull{Name: name})
		if err != nil {
			return Image{}, importError("pull", name, err)
		}
		if image, err := s.Get(as); err == nil {
			if err := isOf(image, ref); err != nil {
				return Image{}, importError("pull", name, err)
			}
			return image, nil
		}
		return s.PullReference(ctx, api.Pull{Name: name}, nil, report)
	}
	if definition == nil {
		return imageOf(s.exchange.PullOffer(ctx, name, s.names(), report))
	}
	object, err := s.objects.Fill(ctx, name, func(ctx context.Context, dir string) (Manifest, error) {
		return s.build(ctx, definition, dir, report)
	})
	if err != nil {
		return Image{}, pullError(name, err)
	}
	return fromObject(object), nil
}

// pullError tells the user what went wrong; [api.Error] are their own words.
func pullError(name string, err error) error {
	if told, ok := errors.AsType[*api.Error](err); ok {
		return told
	}
	text := fmt.Sprintf("cannot pull image %q: %v", name, err)
	switch {
	case errors.Is(err, context.Canceled):
		return &api.Error{Kind: api.KindCanceled, Message: fmt.Sprintf("cannot pull image %q: canceled", name)}
	case space.IsFull(err), strings.Contains(text, "No space left on device"):
		return &api.Error{Kind: api.KindNoSpace, Message: text, Hint: "free some space, or set TMPDIR to where there is some"}
	}
	return &api.Error{Kind: api.KindInternal, Message: text}
}

// Get returns the image of that name. Without one the error is an
// [api.Error] of kind not_found.
func (s *Store) Get(name string) (Image, error) {
	object, err := s.objects.Get(name)
	switch {
	case errors.Is(err, objects.ErrNotFound), errors.Is(err, objects.ErrBadName):
		if s.catalog[name] != nil {
			return Image{}, s.unknown(name, "banger image pull "+name)
		}
		return Image{}, s.unknown(name, "banger image list")
	case errors.Is(err, objects.ErrBroken):
		return Image{}, &api.Error{
			Kind: api.KindState, Message: fmt.Sprintf("cannot use image %q: %v", name, err),
			Hint: "banger image delete " + name + ", then pull it again",
		}
	case err != nil:
		return Image{}, fmt.Errorf("cannot use image %q: %w", name, err)
	}
	return fromObject(object), nil
}

func (s *Store) unknown(name, hint string) error {
	return &api.Error{Kind: api.KindNotFound, Message: fmt.Sprintf("no image %q", name), Hint: hint}
}

// List returns the images in the store, sorted by name. The error tells about
// damaged ones; the others are returned all the same.
func (s *Store) List() ([]Image, error) {
	list, err := s.objects.List()
	result := make([]Image, 0, len(list))
	for _, object := range list {
		result = append(result, fromObject(object))
	}
	return result, err
}

// Available returns what can be pulled, sorted by name. Present is set for
// what is in the store, and nothing else is told about that.
func (s *Store) Available() []api.Image {
	var list []api.Image
	for _, name := range s.names() {
		definition := s.catalog[name]
		_, err := s.objects.Get(name)
		list = append(list, api.Image{
			Name: name, Present: err == nil, Kernel: definition.Kernel, Description: definition.Description, Origin: catalog.BuiltIn,
			Source: map[string]string{"suite": definition.Suite, "definition": definition.digest},
		})
	}
	return list
}

func (s *Store) names() []string { return slices.Sorted(maps.Keys(s.catalog)) }

// Delete removes an image. That no VM uses it is the caller's to know.
func (s *Store) Delete(ctx context.Context, name string) error {
	err := s.objects.Delete(ctx, name)
	if errors.Is(err, objects.ErrNotFound) || errors.Is(err, objects.ErrBadName) {
		return s.unknown(name, "banger image list")
	}
	return err
}

// Sweep removes what killed processes left in the store.
func (s *Store) Sweep(ctx context.Context) error { return s.objects.Sweep(ctx) }

func fromObject(o objects.Object[Manifest]) Image {
	return Image{Name: o.Name, Digest: o.Digest, Dir: o.Dir, Size: o.Size, Created: o.Created, Origin: o.Origin, Manifest: o.Manifest}
}
