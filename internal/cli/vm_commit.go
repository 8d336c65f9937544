package cli

import (
	"context"

	"github.com/spf13/cobra"

	"banger/internal/api"
	"banger/internal/client"
)

func newVMCommit(a *app) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "commit VM NAME",
		Short: "Make an image of a VM's disk",
		Long: `Make an image of what a VM has on its disk now, /root included: new VMs of it begin
with that. A VM that does not run is started for it, and stopped again.

What is one machine's own is left out (ssh host keys, machine id, authorized_keys, this
host's proxies and CA certificates), and so are /tmp and what Docker stores. Everything
else is in the image, so keep secrets out of it: files of yours that file_sync has
copied, a workspace, the shell's history. Stop what writes much, since files are
read one after the other.`,
		Example:           "  banger vm commit sandbox tools\n  banger vm run --rm --image tools -- make test",
		Args:              exactly("the VM's name", "the image's name"),
		ValidArgsFunction: first(a.live(vmNames)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := checkImageName(args[1]); err != nil {
				return err
			}
			return pull(cmd.Context(), a, asJSON, func(ctx context.Context, c *client.Client) (any, string, error) {
				report, end := a.progress()
				defer end()
				image, err := c.CommitVM(ctx, args[0], api.Commit{Name: args[1]}, report)
				return image, image.Name, err
			})
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "write the image as JSON in place of its name")
	return cmd
}
