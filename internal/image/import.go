package image

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"banger/internal/api"
	"banger/internal/bundle"
	"banger/internal/ext4"
	"banger/internal/image/oci"
	"banger/internal/objects"
	"banger/internal/progress"
	"banger/internal/space"
)

// defaultKernel is what images boot that do not come from the catalog.
const defaultKernel = "debian-6.12"

// sourceReference and sourceManifest are the keys of a [Manifest]'s source that
// say what was pulled.
const (
	sourceReference = "reference"
	sourceManifest  = "manifest"
)

// Guard has a say when an image is to take the name of another.
type Guard interface {
	// Replaceable says why that would be refused now, before much is done.
	Replaceable(name string) error
	// ReplaceImage publishes the image, or says why it cannot. Keep gives the
	// other one a name of its own, and returns it.
	ReplaceImage(ctx context.Context, name string, keep func() (string, error), publish func() error) error
}

// PullReference gets an image from a registry, under the name given or one
// made of the reference. An image that is there already is what is returned if
// the registry still means the same by the reference; else it is replaced,
// through guard. If that is nil nothing is replaced: what somebody else makes
// meanwhile is what is returned.
func (s *Store) PullReference(ctx context.Context, request api.Pull, guard Guard, report progress.Func) (Image, error) {
	image, err := s.pullReference(ctx, request, guard, report)
	if err != nil {
		return Image{}, importError("pull", request.Name, err)
	}
	return image, nil
}

func (s *Store) pullReference(ctx context.Context, request api.Pull, guard Guard, report progress.Func) (Image, error) {
	ref, name, err := s.referenceName(request)
	if err != nil {
		return Image{}, err
	}
	report.Step("asking the registry for " + ref.String())
	remote, err := oci.Resolve(ctx, ref, request.Insecure)
	if err != nil {
		return Image{}, err
	}
	if have, err := s.objects.Get(name); err == nil {
		if err := isOf(fromObject(have), ref); err != nil {
			return Image{}, err
		}
		switch {
		case have.Manifest.Source[sourceManifest] == remote.Digest:
			return fromObject(have), nil
		case guard != nil:
			if err := guard.Replaceable(name); err != nil {
				return Image{}, err
			}
		}
	}
	if err := os.MkdirAll(s.options.CacheDir, 0o700); err != nil {
		return Image{}, err
	}
	if err := space.Need(s.options.CacheDir, remote.Missing(s.blobs)); err != nil {
		return Image{}, err
	}
	build := func(ctx context.Context, dir string) (Manifest, error) {
		// Somebody else may have made one meanwhile; from here on nobody does.
		if have, err := s.objects.Get(name); err == nil {
			if err := isOf(fromObject(have), ref); err != nil {
				return Manifest{}, err
			}
		}
		container, err := remote.Fetch(ctx, s.blobs, report)
		if err != nil {
			return Manifest{}, err
		}
		return s.flatten(ctx, container, dir, report)
	}
	if guard == nil {
		image, err := imageOf(s.objects.Fill(ctx, name, build))
		if err == nil {
			err = isOf(image, ref) // somebody else's, who was faster
		}
		return image, err
	}
	keep := func() (string, error) { return s.objects.Keep(ctx, name) }
	return imageOf(s.objects.Replace(ctx, name, func(publish func() error) error {
		return guard.ReplaceImage(ctx, name, keep, publish)
	}, build))
}

// isOf refuses an image of another reference: names that are made of two, as of
// a/b and a-b, may be one.
func isOf(image Image, ref oci.Reference) error {
	from := image.Source[sourceReference]
	// That of an archive is as whoever wrote it has put it.
	if parsed, err := oci.ParseReference(from, false); err == nil && parsed.String() == ref.String() {
		return nil
	}
	taken := nameTaken(image.Name, "its image is "+cmp.Or(from, "another"))
	taken.Hint = fmt.Sprintf("'banger image pull --name NAME %s' gives it another name", ref)
	return taken
}

// referenceName returns what the image is called in the store.
func (s *Store) referenceName(request api.Pull) (oci.Reference, string, error) {
	ref, err := oci.ParseReference(request.Name, request.Insecure)
	if err != nil {
		return ref, "", usage(err)
	}
	name := request.As
	if name == "" {
		name = ref.ImageName()
	}
	return ref, name, s.checkNewName(name)
}

func (s *Store) checkNewName(name string) error {
	if err := objects.CheckName(name); err != nil {
		return usage(err)
	}
	if s.catalog[name] != nil {
		return nameTaken(name, "the catalog's image has it")
	}
	return nil
}

// Import makes an image of a file or directory on this host.
func (s *Store) Import(ctx context.Context, request api.Import, report progress.Func) (Image, error) {
	image, err := imageOf(s.exchange.Import(ctx, request, report))
	if !errors.Is(err, bundle.ErrNoBundle) {
		return image, err
	}
	image, err = s.importPath(ctx, request, report)
	if err != nil {
		return Image{}, importError("import", request.Path, err)
	}
	return image, nil
}

func (s *Store) importPath(ctx context.Context, request api.Import, report progress.Func) (Image, error) {
	if !filepath.IsAbs(request.Path) {
		return Image{}, usage(errors.New("the path is not absolute"))
	}
	if request.Name != "" { // all of an archive is read otherwise before it is refused
		if err := s.checkFree(request.Name); err != nil {
			return Image{}, err
		}
	}
	report.Step("reading " + filepath.Base(request.Path))
	container, err := oci.Import(ctx, request.Path, s.options.CacheDir)
	if err != nil {
		return Image{}, err
	}
	name := request.Name
	if name == "" {
		if ref, err := oci.ParseReference(container.Reference, false); err == nil && container.Reference != "" {
			name = ref.ImageName()
		} else {
			name = nameOfFile(request.Path)
		}
	}
	return s.add(ctx, name, container, func(*Manifest) {}, report)
}

// add makes an image of a container image, which it closes, under a name that
// is free. What is told about it goes through describe.
func (s *Store) add(ctx context.Context, name string, container *oci.Image, describe func(*Manifest), report progress.Func) (Image, error) {
	image, used, err := s.fill(ctx, name, func(ctx context.Context, dir string) (Manifest, error) {
		made, err := s.flatten(ctx, container, dir, report)
		if err == nil {
			describe(&made)
		}
		return made, err
	})
	if !used {
		err = errors.Join(err, container.Close())
	}
	return image, err
}

// fill makes an image under a name that is free; used tells whether build was
// called.
func (s *Store) fill(ctx context.Context, name string, build func(ctx context.Context, dir string) (Manifest, error)) (image Image, used bool, err error) {
	if err := s.checkFree(name); err != nil {
		return Image{}, false, err
	}
	object, err := s.objects.Fill(ctx, name, func(ctx context.Context, dir string) (Manifest, error) {
		used = true
		return build(ctx, dir)
	})
	if err == nil && !used { // somebody else was faster
		err = nameTaken(name, "there is an image of that name")
	}
	return fromObject(object), used, err
}

func (s *Store) checkFree(name string) error {
	err := s.checkNewName(name)
	if _, getErr := s.objects.Get(name); err == nil && getErr == nil {
		err = nameTaken(name, "there is an image of that name")
	}
	return err
}

// nameOfFile is a file's name without what says how it is packed.
func nameOfFile(path string) string {
	name := filepath.Base(path)
	for _, suffix := range []string{".gz", ".zst", ".xz", ".tgz", ".tar"} {
		name = strings.TrimSuffix(name, suffix)
	}
	return name
}

// flatten makes the parts of an image in dir, and closes what it is made of.
func (s *Store) flatten(ctx context.Context, container *oci.Image, dir string, report progress.Func) (m Manifest, err error) {
	defer func() { err = errors.Join(err, container.Close()) }()
	report.Step("reading the layers")
	free, err := space.Free(dir)
	if err != nil {
		return m, err
	}
	const most, share = 4 << 30, 8 // of the space that is free
	err = container.Unpack(ctx, min(most, free/share), dir)
	if err != nil {
		return m, s.dropDamaged(container, err)
	}
	tree, err := oci.Flatten(ctx, container.Layers, container.Config.WorkingDir)
	if err != nil {
		return m, s.dropDamaged(container, err)
	}
	defer tree.Close()
	// What ext4 adds to the content of files, generously.
	const perEntry, fixed = 4096 + 512, 64 << 20
	if err := space.Need(dir, tree.Size+int64(tree.Entries)*perEntry+fixed); err != nil {
		return m, err
	}
	stream, out := io.Pipe()
	written := make(chan error, 1)
	go func() {
		err := tree.WriteTar(ctx, out)
		out.CloseWithError(err)
		written <- err
	}()
	err = ext4.Write(filepath.Join(dir, rootDisk), counted(stream, report), ext4.MaxSize)
	stream.CloseWithError(err)
	if treeErr := <-written; treeErr != nil && (err == nil || errors.Is(err, treeErr)) {
		err = treeErr
	}
	if err != nil {
		return m, err
	}
	source := map[string]string{
		"from": container.Kind, sourceReference: container.Reference, sourceManifest: container.Digest,
		"built": container.Created, "layers": strconv.Itoa(len(container.Layers)), "files": strconv.Itoa(tree.Entries),
	}
	for key, value := range source {
		if value == "" {
			delete(source, key)
		}
	}
	config := api.ContainerConfig(container.Config)
	return Manifest{
		Description: "container image", Kernel: defaultKernel, Init: tree.Init, Source: source, Container: &config,
	}, nil
}

// dropDamaged removes layers from the cache if one of them is what is damaged,
// so that they are downloaded again.
func (s *Store) dropDamaged(container *oci.Image, err error) error {
	if damaged, ok := errors.AsType[*oci.DigestError](err); ok && container.Kind == "registry" {
		return errors.Join(err, s.blobs.Drop(damaged.Want))
	}
	return err
}

// Prune removes what can be fetched again: the cached layers; and what killed
// processes have left. With dryRun it says what that would be.
func (s *Store) Prune(ctx context.Context, dryRun bool) (api.Pruned, error) {
	count, freed, err := s.blobs.Prune(dryRun)
	if !dryRun {
		err = errors.Join(err, s.objects.Sweep(ctx))
	}
	return api.Pruned{Layers: count, Bytes: freed}, err
}

func usage(err error) error { return &api.Error{Kind: api.KindUsage, Message: err.Error()} }

func nameTaken(name, why string) *api.Error {
	return &api.Error{Kind: api.KindExists, Message: fmt.Sprintf("the name %q is taken: %s", name, why), Hint: "choose another name"}
}

// importError tells the user what went wrong.
func importError(verb, what string, err error) error {
	shown := &api.Error{Kind: api.KindInternal, Message: fmt.Sprintf("cannot %s %q: %v", verb, what, err)}
	if known, ok := errors.AsType[*api.Error](err); ok {
		shown.Kind, shown.Hint = known.Kind, known.Hint
	}
	_, platform := errors.AsType[*oci.PlatformError](err)
	_, damaged := errors.AsType[*oci.DigestError](err)
	switch {
	case errors.Is(err, context.Canceled):
		return &api.Error{Kind: api.KindCanceled, Message: fmt.Sprintf("cannot %s %q: canceled", verb, what)}
	case space.IsFull(err):
		shown.Kind, shown.Hint = api.KindNoSpace, space.Hint
	case errors.Is(err, oci.ErrUnauthorized):
		shown.Kind, shown.Hint = api.KindState, "'docker login' or 'podman login' makes credentials that banger uses; bangerd reads them where $HOME or $DOCKER_CONFIG say"
	case errors.Is(err, oci.ErrUnknown), errors.Is(err, os.ErrNotExist):
		shown.Kind = api.KindNotFound
	case errors.Is(err, oci.ErrPlainHTTP):
		shown.Kind, shown.Hint = api.KindState, "--insecure allows it"
	case platform, damaged, errors.Is(err, oci.ErrTooLarge):
		shown.Kind = api.KindState
	}
	return shown
}
