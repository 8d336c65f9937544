package cli

import (
	"context"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"banger/internal/api"
	"banger/internal/client"
)

func newKernel(a *app) *cobra.Command {
	return newGroup("kernel", "Kernels that VMs boot with", `Kernels that VMs boot with. An image names the one it wants, and it is pulled by
itself when it is first needed.`, groupManage,
		newList(a, "kernel", `List the kernels on this host, and with --available also those that banger can get
from the distribution's archive and what the catalogs of the configuration
(catalog_urls) have, with its origin.`, "also list those that could be pulled",
			func(c *client.Client, ctx context.Context) ([]api.Kernel, error) { return c.Kernels(ctx, false) },
			(*client.Client).AvailableKernels, kernelTable),
		newShow(a, "kernel", "debian-6.12", ".version", allKernels, (*client.Client).Kernel, kernelRows),
		newKernelPull(a), newKernelImport(a),
		newExport(a, "kernel", "debian-6.12", presentKernels, (*client.Client).ExportKernel),
		newDelete(a, "kernel", "debian-6.12", presentKernels, (*client.Client).DeleteKernel))
}

func kernelTable(kernels []api.Kernel, now time.Time) table {
	t := table{header: []string{"NAME", "STATE", "VERSION", "SIZE", "CREATED", "USED BY"}}
	for _, kernel := range kernels {
		t.add(kernel.Origin, text(kernel.Name), presence(kernel.Present), text(orDash(kernel.Version)), text(sizeOrDash(kernel.Size)),
			text(since(kernel.Created, now)), text(orDash(strings.Join(kernel.UsedBy, ","))))
	}
	return t
}

func kernelRows(kernel api.Kernel) [][]cell {
	rows := [][]cell{
		{text("name"), text(kernel.Name)},
		{text("state"), presence(kernel.Present)},
		{text("description"), text(orDash(kernel.Description))},
		{text("version"), text(orDash(kernel.Version))},
		{text("digest"), text(orDash(kernel.Digest))},
		{text("size"), text(sizeOrDash(kernel.Size))},
		{text("created"), text(createdAt(kernel.Created))},
		{text("used by"), text(orDash(strings.Join(kernel.UsedBy, ", ")))},
	}
	return slices.Concat(rows, receivedRows(kernel.Received), featureRows(kernel), sourceRows(kernel.Source))
}

// featureRows show what a kernel in the store can do, and what not.
func featureRows(kernel api.Kernel) [][]cell {
	if !kernel.Present {
		return nil
	}
	if len(kernel.Features) == 0 {
		return [][]cell{{text("features"), {text: "not looked at by the banger that got it", style: dim}}}
	}
	by := make(map[api.FeatureState][]string)
	for _, f := range kernel.Features {
		name := f.Name
		if len(f.Options) > 0 {
			name += " (" + strings.Join(f.Options, ", ") + ")"
		}
		by[f.State] = append(by[f.State], name)
	}
	rows := [][]cell{{text("features"), text(orDash(strings.Join(by[api.FeaturePresent], ", ")))}}
	for _, name := range by[api.FeatureMissing] {
		rows = append(rows, []cell{text("lacks"), {text: name, style: yellow}})
	}
	for _, name := range by[api.FeatureUnknown] {
		rows = append(rows, []cell{text("not known"), {text: name, style: dim}})
	}
	return rows
}

func newKernelPull(a *app) *cobra.Command {
	var asJSON bool
	var request api.Pull
	cmd := &cobra.Command{
		Use:   "pull NAME|URL",
		Short: "Get a kernel",
		Long: `Get a kernel of the catalog from the distribution's own signed archive, or one that
is in a bundle at a URL (https://...) which 'kernel export' has made. All of a bundle
is verified before the kernel is there. If FILE.sig is beside it, the signature must be
of one of trusted_keys of the configuration; where that has keys, there must be a
signature.`,
		Example:           "  banger kernel pull debian-6.12\n  banger kernel pull https://example.org/kernels/custom.tar.zst",
		Args:              exactly("the kernel's name or URL"),
		ValidArgsFunction: first(a.live(allKernels)),
		RunE: func(cmd *cobra.Command, args []string) error {
			return pull(cmd.Context(), a, asJSON, func(ctx context.Context, c *client.Client) (any, string, error) {
				report, end := a.progress()
				defer end()
				request.Name = args[0]
				if !strings.Contains(request.Name, "://") && (request.As != "" || request.Insecure || request.Untrusted) {
					return nil, "", usagef("--name, --insecure and --untrusted are about bundles at a URL, and %q is none", request.Name)
				}
				kernel, err := c.PullKernel(ctx, request, report)
				return kernel, kernel.Name, err
			})
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "write the kernel as JSON in place of its name")
	cmd.Flags().StringVar(&request.As, "name", "", "call the kernel `NAME` (default: as in the bundle)")
	cmd.Flags().BoolVar(&request.Insecure, "insecure", false, "allow a server without TLS")
	untrustedFlag(cmd, &request.Untrusted)
	completeFlag(cmd, "name", cobra.NoFileCompletions)
	return cmd
}

func newKernelImport(a *app) *cobra.Command {
	var asJSON bool
	var request api.Import
	cmd := &cobra.Command{
		Use:   "import PATH",
		Short: "Get a kernel from files on this host",
		Long: `Get a kernel that is on this host: of a Debian package (linux-image-*.deb), of what is
installed or unpacked, or of a bundle that 'kernel export' has made. Nothing of it is
run, and nothing is changed.

What is installed is named by its image, /boot/vmlinuz-VERSION, or by the directory that
has boot/ and lib/modules/. Its modules and configuration are taken from where they
belong, or from --modules and --config. A kernel without what VMs boot with (virtio,
ext4 and overlay, as modules or built in) is refused, with a list of what it lacks; what
Docker and others would miss is a warning, and in 'kernel show'.

A bundle is verified before the kernel is there. If FILE.sig is beside it, the signature
must be of one of trusted_keys of the configuration; where that has keys, there must be
a signature.`,
		Example: `  banger kernel import /boot/vmlinuz-$(uname -r)
  banger kernel import --name mine linux-image-6.1.0-49-cloud-amd64_6.1.170-1_amd64.deb
  banger kernel import --modules out/lib/modules/6.12.3 --config .config arch/x86/boot/bzImage
  banger kernel import custom.tar.zst`,
		Args: exactly("the path"),
		RunE: func(cmd *cobra.Command, args []string) error {
			request.Path = args[0]
			for _, path := range []*string{&request.Path, &request.Modules, &request.Config} {
				if *path == "" {
					continue
				}
				absolute, err := filepath.Abs(*path)
				if err != nil {
					return err
				}
				*path = absolute
			}
			return pull(cmd.Context(), a, asJSON, func(ctx context.Context, c *client.Client) (any, string, error) {
				report, end := a.progress()
				defer end()
				kernel, err := c.ImportKernel(ctx, request, report)
				return kernel, kernel.Name, err
			})
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "write the kernel as JSON in place of its name")
	cmd.Flags().StringVar(&request.Name, "name", "", "call the kernel `NAME` (default: as in the bundle, the package's, or made of the version)")
	cmd.Flags().StringVar(&request.Modules, "modules", "", "the modules of the kernel are in `DIRECTORY`, which is called as its version")
	cmd.Flags().StringVar(&request.Config, "config", "", "the configuration that the kernel was built with is `FILE`")
	untrustedFlag(cmd, &request.Untrusted)
	completeFlag(cmd, "name", cobra.NoFileCompletions)
	return cmd
}
