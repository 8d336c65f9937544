package cli

import (
	"context"
	"path/filepath"

	"github.com/spf13/cobra"

	"banger/internal/api"
	"banger/internal/client"
)

func newImageRegister(a *app) *cobra.Command {
	var asJSON bool
	var request api.Register
	cmd := &cobra.Command{
		Use:   "register NAME --rootfs PATH",
		Short: "Make an image of a root file system that is here",
		Long: `Make an image of a root file system on this host. PATH is a file with an ext4 file
system, which must be clean and in nobody's use: it is copied and checked, and never
mounted. Or it is a directory, of which an ext4 is made, with owners, modes, links and
extended attributes as you see them; to read all of a system that takes root.

PATH itself is left as it is, and is not needed afterwards.`,
		Example: `  banger image register mine --rootfs rootfs.ext4
  banger image register mine --rootfs ./rootfs --kernel debian-6.1`,
		Args: exactly("the image's name"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if request.RootFS == "" {
				return &usageError{message: "there is nothing to make an image of", hint: "give the file or directory with --rootfs PATH"}
			}
			if err := checkImageName(args[0]); err != nil {
				return err
			}
			path, err := filepath.Abs(request.RootFS)
			if err != nil {
				return err
			}
			request.Name, request.RootFS = args[0], path
			return pull(cmd.Context(), a, asJSON, func(ctx context.Context, c *client.Client) (any, string, error) {
				report, end := a.progress()
				defer end()
				image, err := c.RegisterImage(ctx, request, report)
				return image, image.Name, err
			})
		},
	}
	cmd.Flags().StringVar(&request.RootFS, "rootfs", "", "`PATH` of a file with an ext4, or of a directory; must be given")
	cmd.Flags().StringVar(&request.Kernel, "kernel", "", "`KERNEL` that the image boots (default debian-6.12)")
	cmd.Flags().BoolVar(&asJSON, "json", false, "write the image as JSON in place of its name")
	completeFlag(cmd, "kernel", a.live(allKernels))
	return cmd
}
