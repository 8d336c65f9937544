package cli

import (
	"context"

	"github.com/spf13/cobra"

	"banger/internal/api"
	"banger/internal/client"
	"banger/internal/config"
	"banger/internal/hostenv"
)

// newVMFlags are the flags of the commands that make a VM.
type newVMFlags struct {
	name, image, kernel, vmm string
	sizing                   sizing
}

func (f *newVMFlags) addTo(a *app, cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.name, "name", "", "`NAME` of the VM, 1-63 of a-z, 0-9 and '-' (default: a friendly one)")
	flags.StringVar(&f.image, "image", "", "`IMAGE` to boot (default: default_image_name of the configuration)")
	flags.StringVar(&f.kernel, "kernel", "", "`KERNEL` to boot, now and later (default: the one that the image wants)")
	vmmFlag(cmd, &f.vmm)
	f.sizing.addTo(cmd)
	completeFlag(cmd, "name", cobra.NoFileCompletions)
	completeFlag(cmd, "image", a.live(allImages))
	completeFlag(cmd, "kernel", a.live(allKernels))
}

// request makes the request for a VM, with every size decided: a change of the
// configuration counts at once, whatever bangerd has read at its start.
func (f *newVMFlags) request(a *app, cmd *cobra.Command) (api.CreateVM, config.Spec, error) {
	for _, name := range []string{"name", "image", "kernel"} {
		if flag := cmd.Flags().Lookup(name); flag.Changed && flag.Value.String() == "" {
			return api.CreateVM{}, config.Spec{}, usagef("--%s is empty", name)
		}
	}
	// bangerd checks it too; here it is refused before anything is started.
	if f.name != "" {
		if err := api.CheckName(f.name); err != nil {
			return api.CreateVM{}, config.Spec{}, err
		}
	}
	spec, err := a.spec(f.sizing)
	if err != nil {
		return api.CreateVM{}, config.Spec{}, err
	}
	settings, err := a.config()
	if err != nil {
		return api.CreateVM{}, config.Spec{}, err
	}
	image := f.image
	if image == "" {
		image = settings.DefaultImage
	}
	return api.CreateVM{
		Name: f.name, Image: image, Kernel: f.kernel, VMM: f.vmm, VCPU: spec.VCPU, MemoryMiB: spec.MemoryMiB, DiskBytes: spec.DiskBytes,
		Environment: hostenv.Select(a.env.Getenv),
	}, spec, nil
}

// vmmFlag adds --vmm.
func vmmFlag(cmd *cobra.Command, to *string) {
	cmd.Flags().Var(textFlag{to, config.CheckVMM}, "vmm", "`VMM` to run it on, now and later: firecracker, qemu or auto (default: vmm of the configuration)")
	completeFlag(cmd, "vmm", cobra.FixedCompletions(config.VMMs(), cobra.ShellCompDirectiveNoFileComp))
}

type vmCreateOptions struct {
	request api.CreateVM
	spec    config.Spec
	json    bool
}

func newVMCreate(a *app) *cobra.Command {
	var o vmCreateOptions
	var flags newVMFlags
	var noStart bool
	cmd := &cobra.Command{
		Use:   "create",
		Short: "Create a VM and start it",
		Long: `Create a VM, start it and write its name. It runs until it is stopped.

Sizes that are not given come from [vm_defaults] of the configuration, else from
this host: a quarter of its CPUs (at most 4), an eighth of its memory (at most
8G), and a work disk of 8G.`,
		Example: `  banger vm create
  banger vm create --name sandbox --vcpu 2 --memory 4G --disk-size 20G
  banger vm create --name later --no-start`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if o.request, o.spec, err = flags.request(a, cmd); err != nil {
				return err
			}
			o.request.Start = !noStart
			return runVMCreate(cmd.Context(), a, o)
		},
	}
	flags.addTo(a, cmd)
	cmd.Flags().BoolVar(&noStart, "no-start", false, "do not start it")
	cmd.Flags().BoolVar(&o.json, "json", false, "write the VM as JSON in place of its name")
	return cmd
}

func runVMCreate(ctx context.Context, a *app, o vmCreateOptions) error {
	c, err := a.client(ctx)
	if err != nil {
		return err
	}
	vm, err := a.create(ctx, c, o.request, o.spec)
	if err != nil {
		return err
	}
	if o.json {
		return a.writeJSON(vm)
	}
	return a.writeLines(vm.Name)
}

// create makes a VM with its progress shown. When ctx ends before it is
// returned, it is gone again.
func (a *app) create(ctx context.Context, c *client.Client, request api.CreateVM, spec config.Spec) (api.VM, error) {
	a.note("spec: %s", spec)
	report, end := a.progress()
	vm, err := c.CreateVM(ctx, request, report)
	end()
	if err != nil {
		return api.VM{}, err
	}
	if ctx.Err() != nil {
		// It was finished before bangerd heard that nobody wants it.
		if err := c.DeleteVM(context.WithoutCancel(ctx), vm.Name, api.DeleteVM{Force: true}); err != nil {
			a.warn("cannot delete VM %q: %v", vm.Name, err)
		}
		return api.VM{}, context.Cause(ctx)
	}
	return vm, nil
}
