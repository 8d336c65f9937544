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

// imageCatalog is the images as the API shows them.
type imageCatalog struct {
	store *image.Store
	vms   *vm.Manager
}

func (c imageCatalog) show(i api.Image) api.Image {
	i.UsedBy = c.vms.ImageUsers(i.Name)
	return i
}

func (c imageCatalog) List(available bool) ([]api.Image, error) {
	present, err := c.store.List()
	if err != nil {
		return nil, err
	}
	list := []api.Image{}
	have := make(map[string]bool)
	for _, i := range present {
		list = append(list, c.show(i.API()))
		have[i.Name] = true
	}
	if available {
		for _, i := range c.store.Available() {
			if !have[i.Name] {
				list = append(list, i)
			}
		}
	}
	return list, nil
}

func (c imageCatalog) Available(ctx context.Context, report progress.Func) ([]api.Image, error) {
	list, err := c.List(true)
	if err != nil {
		return nil, err
	}
	have := make(map[string]bool)
	for _, one := range list {
		have[one.Name] = true
	}
	for _, offer := range c.store.Offers(ctx, report) {
		if !have[offer.Name] {
			have[offer.Name] = true
			list = append(list, offer)
		}
	}
	return list, nil
}

func (c imageCatalog) Get(name string) (api.Image, error) {
	i, err := c.store.Get(name)
	if err != nil {
		return api.Image{}, err
	}
	return c.show(i.API()), nil
}

func (c imageCatalog) Pull(ctx context.Context, request api.Pull, report progress.Func) (api.Image, error) {
	pull := func() (image.Image, error) { return c.store.Pull(ctx, request.Name, report) }
	switch {
	case bundle.IsURL(request.Name):
		pull = func() (image.Image, error) { return c.store.PullBundle(ctx, request, report) }
	case oci.IsReference(request.Name):
		pull = func() (image.Image, error) { return c.store.PullReference(ctx, request, c.replace, report) }
	}
	i, err := pull()
	if err != nil {
		return api.Image{}, err
	}
	return c.show(i.API()), nil
}

// replace lets an image take another's place if no VM needs that.
func (c imageCatalog) replace(name string, publish func() error) error {
	return c.vms.Unused("image", name, publish)
}

func (c imageCatalog) Import(ctx context.Context, request api.Import, report progress.Func) (api.Image, error) {
	i, err := c.store.Import(ctx, request, report)
	if err != nil {
		return api.Image{}, err
	}
	return c.show(i.API()), nil
}

// Commit makes an image of a VM's disk.
func (c imageCatalog) Commit(ctx context.Context, ref string, request api.Commit, report progress.Func) (api.Image, error) {
	if err := c.store.CheckNew(request.Name); err != nil {
		return api.Image{}, err
	}
	var made image.Image
	err := c.vms.System(ctx, ref, report, func(vm api.VM, system io.Reader) (err error) {
		made, err = c.store.Commit(ctx, request.Name, vm, system, report)
		return err
	})
	if err != nil {
		return api.Image{}, err
	}
	return c.show(made.API()), nil
}

func (c imageCatalog) Export(ctx context.Context, name string, request api.Export, report progress.Func) (api.Exported, error) {
	return c.store.Export(ctx, name, request, report)
}

func (c imageCatalog) Delete(ctx context.Context, name string) error {
	return c.vms.Unused("image", name, func() error { return c.store.Delete(ctx, name) })
}

// kernelCatalog is the kernels as the API shows them.
type kernelCatalog struct {
	store *kernel.Store
	vms   *vm.Manager
}

func (c kernelCatalog) show(k api.Kernel) api.Kernel {
	k.UsedBy = c.vms.KernelUsers(k.Name)
	return k
}

func (c kernelCatalog) List(available bool) ([]api.Kernel, error) {
	present, err := c.store.List()
	if err != nil {
		return nil, err
	}
	list := []api.Kernel{}
	have := make(map[string]bool)
	for _, k := range present {
		list = append(list, c.show(k.Info()))
		have[k.Name] = true
	}
	if available {
		others, err := c.store.Available()
		if err != nil {
			return nil, err
		}
		for _, k := range others {
			if !have[k.Name] {
				list = append(list, k)
			}
		}
	}
	return list, nil
}

func (c kernelCatalog) Available(ctx context.Context, report progress.Func) ([]api.Kernel, error) {
	list, err := c.List(true)
	if err != nil {
		return nil, err
	}
	have := make(map[string]bool)
	for _, one := range list {
		have[one.Name] = true
	}
	for _, offer := range c.store.Offers(ctx, report) {
		if !have[offer.Name] {
			have[offer.Name] = true
			list = append(list, offer)
		}
	}
	return list, nil
}

func (c kernelCatalog) Get(name string) (api.Kernel, error) {
	k, err := c.store.Get(name)
	if err != nil {
		return api.Kernel{}, err
	}
	return c.show(k.Info()), nil
}

func (c kernelCatalog) Pull(ctx context.Context, request api.Pull, report progress.Func) (api.Kernel, error) {
	pull := func() (kernel.Kernel, error) { return c.store.Pull(ctx, request.Name, report) }
	if bundle.IsURL(request.Name) {
		pull = func() (kernel.Kernel, error) { return c.store.PullBundle(ctx, request, report) }
	}
	k, err := pull()
	if err != nil {
		return api.Kernel{}, err
	}
	return c.show(k.Info()), nil
}

func (c kernelCatalog) Import(ctx context.Context, request api.Import, report progress.Func) (api.Kernel, error) {
	k, err := c.store.Import(ctx, request, report)
	if err != nil {
		return api.Kernel{}, err
	}
	return c.show(k.Info()), nil
}

func (c kernelCatalog) Export(ctx context.Context, name string, request api.Export, report progress.Func) (api.Exported, error) {
	return c.store.Export(ctx, name, request, report)
}

func (c kernelCatalog) Delete(ctx context.Context, name string) error {
	return c.vms.Unused("kernel", name, func() error { return c.store.Delete(ctx, name) })
}
