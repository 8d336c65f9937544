// Package kernel keeps the kernels that guests boot, fetched from the
// distribution's own signed archive: the kernel proper as an ELF file, a disk
// with its modules, and those modules that a guest needs before it can mount
// that disk.
package kernel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"sync"

	"banger/internal/api"
	"banger/internal/bundle"
	"banger/internal/catalog"
	"banger/internal/config"
	"banger/internal/debian"
	"banger/internal/objects"
	"banger/internal/progress"
	"banger/internal/regular"
	"banger/internal/space"
)

// The parts of a kernel in the store.
const (
	partVmlinux = "vmlinux"
	partModules = "modules.ext4"
	// dirBootModules holds the modules for the initramfs, not compressed.
	dirBootModules = "boot-modules"
)

// Manifest describes a kernel in the store.
type Manifest struct {
	// Version is what uname -r says in the guest.
	Version     string `json:"version"`
	Description string `json:"description,omitempty"`
	Source      Source `json:"source"`
	// BootModules are names in dirBootModules, in the order in which they
	// have to be loaded.
	BootModules []string `json:"boot_modules"`
	// Features are what it can do. A banger that did not look has written none.
	Features []api.Feature `json:"features,omitempty"`
}

// Source is where a kernel came from: from a suite, a package on this host, or
// files that are installed.
type Source struct {
	Suite          string `json:"suite"`
	Package        string `json:"package"`
	PackageVersion string `json:"package_version"`
	// SHA256 is the package's, in hex.
	SHA256 string `json:"sha256"`
	// File is the kernel's image.
	File string `json:"file,omitempty"`
}

// Kernel is one kernel in the store. Its files must not be written to.
type Kernel struct {
	objects.Object[Manifest]
}

// Vmlinux is the path of the uncompressed ELF kernel.
func (k Kernel) Vmlinux() string { return k.Path(partVmlinux) }

// ModulesDisk is the path of a read-only ext4 file system that belongs on
// /usr/lib/modules: it has one directory, named as [Manifest.Version].
func (k Kernel) ModulesDisk() string { return k.Path(partModules) }

// BootModules are the paths of the modules for the initramfs, in load order.
func (k Kernel) BootModules() []string {
	paths := make([]string, len(k.Manifest.BootModules))
	for i, name := range k.Manifest.BootModules {
		paths[i] = k.Path(filepath.Join(dirBootModules, name))
	}
	return paths
}

// Info is the kernel as told to users, without who uses it.
func (k Kernel) Info() api.Kernel {
	source := k.Manifest.Source
	shown := api.Kernel{
		Name: k.Name, Present: true, Digest: k.Digest, Version: k.Manifest.Version, Size: k.Size, Created: k.Created,
		Description: k.Manifest.Description, Features: k.Manifest.Features, Received: bundle.Received(k.Origin),
		Source: map[string]string{
			"suite": source.Suite, "package": source.Package, "package_version": source.PackageVersion, "sha256": source.SHA256, "file": source.File,
		},
	}
	maps.DeleteFunc(shown.Source, func(_, value string) bool { return value == "" })
	return shown
}

// Options say where a [Store] keeps its things and takes kernels from.
type Options struct {
	// Dir holds the kernels, CacheDir the initramfs files.
	Dir, CacheDir string
	// Mirror is the archive to fetch from; empty is the distribution's default.
	Mirror string
	// Load reads the configuration anew, which has whom bundles are taken from
	// and where catalogs are; nil is one that says nothing.
	Load func() (config.Config, error)
	// Log is optional.
	Log *slog.Logger
}

// Store keeps kernels. Its methods may be called from any goroutine, and
// several processes may use one directory. Errors that a user can act on are
// of type [api.Error].
type Store struct {
	opts    Options
	objects *objects.Store[Manifest]
	// exchange is with other hosts.
	exchange bundle.Exchange[Manifest]

	// What fetching takes; tests have their own.
	check     func(context.Context) error
	bootstrap func(context.Context, debian.Options, io.Writer, progress.Func) error

	mu     sync.Mutex // guards hashes
	hashes map[regular.ID]string
}

// New returns the store in the directory, which need not exist.
func New(opts Options) *Store {
	if opts.Log == nil {
		opts.Log = slog.New(slog.DiscardHandler)
	}
	store := objects.Open[Manifest](opts.Dir)
	return &Store{
		opts: opts, objects: store,
		exchange: bundle.Exchange[Manifest]{Store: store, Kind: bundle.KindKernel, Check: checkParts, Load: opts.Load},
		check:    Check, bootstrap: debian.Bootstrap, hashes: make(map[regular.ID]string),
	}
}

// Get returns a kernel of the store.
func (s *Store) Get(name string) (Kernel, error) {
	object, err := s.objects.Get(name)
	if err != nil {
		return Kernel{}, s.explain(name, err)
	}
	return Kernel{object}, nil
}

// List returns the kernels of the store in the order of their names. The error
// tells about broken entries; the others are returned all the same.
func (s *Store) List() ([]Kernel, error) {
	list, err := s.objects.List()
	kernels := make([]Kernel, len(list))
	for i, object := range list {
		kernels[i] = Kernel{object}
	}
	if err != nil {
		return kernels, fmt.Errorf("cannot list all kernels: %w", err)
	}
	return kernels, nil
}

// Available returns the kernels of the catalog, which [Store.Pull] can fetch,
// whether they are in the store or not.
func (s *Store) Available() ([]api.Kernel, error) {
	definitions, err := definitions()
	if err != nil {
		return nil, err
	}
	var list []api.Kernel
	for _, definition := range definitions {
		entry := api.Kernel{
			Name: definition.name, Description: definition.Description, Origin: catalog.BuiltIn,
			Source: map[string]string{"suite": definition.Suite, "package": definition.Package},
		}
		if kernel, err := s.Get(definition.name); err == nil {
			entry = kernel.Info()
		}
		list = append(list, entry)
	}
	return list, nil
}

// Pull returns a kernel, which is fetched first if the store does not have it
// whole. Several Pulls of one kernel fetch it once.
func (s *Store) Pull(ctx context.Context, name string, report progress.Func) (Kernel, error) {
	if kernel, err := s.Get(name); err == nil {
		return kernel, nil
	}
	offered, err := definitions()
	if err != nil {
		return Kernel{}, err
	}
	i := slices.IndexFunc(offered, func(d definition) bool { return d.name == name })
	if i < 0 {
		object, err := s.exchange.PullOffer(ctx, name, names(offered), report)
		return Kernel{object}, err
	}
	definition := offered[i]
	object, err := s.objects.Fill(ctx, name, func(ctx context.Context, tmp string) (Manifest, error) {
		manifest, err := s.fetch(ctx, definition, tmp, report)
		if err == nil {
			s.opts.Log.InfoContext(ctx, "kernel fetched", "kernel", name, "package", manifest.Source.Package, "sha256", manifest.Source.SHA256)
		}
		return manifest, err
	})
	if err != nil {
		return Kernel{}, s.explain(name, err)
	}
	return Kernel{object}, nil
}

// Delete removes a kernel and the initramfs files made for it. That no VM
// needs it is for the caller to know.
func (s *Store) Delete(ctx context.Context, name string) error {
	kernel, err := s.objects.Get(name)
	if err == nil {
		err = s.removeInitramfs(kernel.Digest, "")
	}
	if err != nil && !errors.Is(err, objects.ErrBroken) {
		return s.explain(name, err)
	}
	if err := s.objects.Delete(ctx, name); err != nil {
		return s.explain(name, err)
	}
	return nil
}

// Sweep removes what killed processes have left in the store. It does not
// disturb others that work in it.
func (s *Store) Sweep(ctx context.Context) error {
	if err := s.objects.Sweep(ctx); err != nil {
		return fmt.Errorf("cannot clean up the kernel store: %w", err)
	}
	return nil
}

// explain makes of an error one that tells the user what to do, if it is of
// those that users see.
func (s *Store) explain(name string, err error) error {
	if _, ok := errors.AsType[*api.Error](err); ok {
		return err
	}
	switch {
	case errors.Is(err, objects.ErrBadName):
		return &api.Error{Kind: api.KindUsage, Message: fmt.Sprintf("cannot use the kernel %v", err)}
	case errors.Is(err, objects.ErrNotFound):
		return &api.Error{Kind: api.KindNotFound, Message: fmt.Sprintf("no kernel %q", name), Hint: "list those present: banger kernel list; fetch one: banger kernel pull NAME"}
	case errors.Is(err, objects.ErrBroken):
		return &api.Error{Kind: api.KindState, Message: fmt.Sprintf("cannot use the kernel %q: %v", name, err), Hint: "fetch it again: banger kernel pull " + name}
	case space.IsFull(err):
		return &api.Error{Kind: api.KindNoSpace, Message: fmt.Sprintf("cannot store the kernel %q: %v", name, err), Hint: fmt.Sprintf("make some room in %s; a kernel takes about 200 MiB, and twice that while it is fetched", s.opts.Dir)}
	}
	return fmt.Errorf("cannot get the kernel %q: %w", name, err)
}
