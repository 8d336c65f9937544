package daemon

import (
	"context"
	"io"

	"banger/internal/api"
	"banger/internal/bundle"
	"banger/internal/image"
	"banger/internal/image/oci"
	"banger/internal/kernel"
	"banger/internal/progress"
	"banger/internal/vm"
)

// shelf is a store as the API shows it: of its O it tells a T.
type shelf[O, T any] struct {
	// kind is what [vm.Manager.Unused] knows it as.
	kind  string
	vms   *vm.Manager
	store interface {
		List() ([]O, error)
		Get(name string) (O, error)
		Offers(ctx context.Context, report progress.Func) []T
		PullBundle(ctx context.Context, request api.Pull, report progress.Func) (O, error)
		Import(ctx context.Context, request api.Import, report progress.Func) (O, error)
		Export(ctx context.Context, name string, request api.Export, report progress.Func) (api.Exported, error)
		Delete(ctx context.Context, name string) error
	}
	// pull gets what is not in a bundle at a URL.
	pull func(ctx context.Context, request api.Pull, report progress.Func) (O, error)
	// builtIn is what this binary can make.
	builtIn func() ([]T, error)
	show    func(O) T
	name    func(T) string
}

func (s shelf[O, T]) List(available bool) ([]T, error) {
	present, err := s.store.List()
	if err != nil {
		return nil, err
	}
	list := make([]T, 0, len(present))
	for _, o := range present {
		list = append(list, s.show(o))
	}
	if !available {
		return list, nil
	}
	others, err := s.builtIn()
	if err != nil {
		return nil, err
	}
	return s.add(list, others), nil
}

// add appends those others whose names are not in the list.
func (s shelf[O, T]) add(list, others []T) []T {
	have := make(map[string]bool)
	for _, one := range list {
		have[s.name(one)] = true
	}
	for _, other := range others {
		if name := s.name(other); !have[name] {
			have[name] = true
			list = append(list, other)
		}
	}
	return list
}

func (s shelf[O, T]) Available(ctx context.Context, report progress.Func) ([]T, error) {
	list, err := s.List(true)
	if err != nil {
		return nil, err
	}
	return s.add(list, s.store.Offers(ctx, report)), nil
}

// shown is what is told of what the store answers.
func (s shelf[O, T]) shown(o O, err error) (T, error) {
	if err != nil {
		var none T
		return none, err
	}
	return s.show(o), nil
}

func (s shelf[O, T]) Get(name string) (T, error) { return s.shown(s.store.Get(name)) }

func (s shelf[O, T]) Pull(ctx context.Context, request api.Pull, report progress.Func) (T, error) {
	if bundle.IsURL(request.Name) {
		return s.shown(s.store.PullBundle(ctx, request, report))
	}
	return s.shown(s.pull(ctx, request, report))
}

func (s shelf[O, T]) Import(ctx context.Context, request api.Import, report progress.Func) (T, error) {
	return s.shown(s.store.Import(ctx, request, report))
}

func (s shelf[O, T]) Export(ctx context.Context, name string, request api.Export, report progress.Func) (api.Exported, error) {
	return s.store.Export(ctx, name, request, report)
}

func (s shelf[O, T]) Delete(ctx context.Context, name string) error {
	return s.vms.Unused(s.kind, name, func() error { return s.store.Delete(ctx, name) })
}

// imageShelf has what only images have.
type imageShelf struct {
	shelf[image.Image, api.Image]
	images *image.Store
}

func newImageShelf(store *image.Store, vms *vm.Manager) imageShelf {
	return imageShelf{images: store, shelf: shelf[image.Image, api.Image]{
		kind: "image", vms: vms, store: store,
		pull: func(ctx context.Context, request api.Pull, report progress.Func) (image.Image, error) {
			if !oci.IsReference(request.Name) {
				return store.Pull(ctx, request.Name, report)
			}
			// VMs keep the image that they were made from when another takes its name.
			return store.PullReference(ctx, request, vms, report)
		},
		builtIn: func() ([]api.Image, error) { return store.Available(), nil },
		show: func(i image.Image) api.Image {
			shown := i.API()
			shown.UsedBy = vms.ImageUsers(i.Name)
			return shown
		},
		name: func(i api.Image) string { return i.Name },
	}}
}

// Get also tells what the image takes on the disk.
func (s imageShelf) Get(name string) (api.Image, error) {
	shown, err := s.shelf.Get(name)
	if err != nil {
		return api.Image{}, err
	}
	usage, err := s.images.Usage(name)
	if err != nil {
		return api.Image{}, err
	}
	for _, vm := range s.vms.List() {
		if vm.Image == name {
			usage.VMs += vm.DiskUsed
		}
	}
	shown.Usage = &usage
	return shown, nil
}

// Commit makes an image of a VM's disk.
func (s imageShelf) Commit(ctx context.Context, ref string, request api.Commit, report progress.Func) (api.Image, error) {
	if err := s.images.CheckNew(request.Name); err != nil {
		return api.Image{}, err
	}
	var made image.Image
	take := func(vm api.VM, stream io.Reader) (err error) {
		made, err = s.images.Commit(ctx, request, vm, stream, report)
		return err
	}
	var err error
	if request.Container != "" {
		err = s.vms.Container(ctx, ref, request.Container, report, take)
	} else {
		err = s.vms.System(ctx, ref, report, take)
	}
	return s.shown(made, err)
}

// Register makes an image of a root file system on this host.
func (s imageShelf) Register(ctx context.Context, request api.Register, report progress.Func) (api.Image, error) {
	return s.shown(s.images.Register(ctx, request, report))
}

func newKernelShelf(store *kernel.Store, vms *vm.Manager) shelf[kernel.Kernel, api.Kernel] {
	return shelf[kernel.Kernel, api.Kernel]{
		kind: "kernel", vms: vms, store: store,
		pull: func(ctx context.Context, request api.Pull, report progress.Func) (kernel.Kernel, error) {
			return store.Pull(ctx, request.Name, report)
		},
		builtIn: store.Available,
		show: func(k kernel.Kernel) api.Kernel {
			shown := k.Info()
			shown.UsedBy = vms.KernelUsers(k.Name)
			return shown
		},
		name: func(k api.Kernel) string { return k.Name },
	}
}
