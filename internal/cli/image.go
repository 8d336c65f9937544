package cli

import (
	"context"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"banger/internal/client"
	"banger/internal/size"
)

func newImage(a *app) *cobra.Command {
	return newGroup("image", "Images that VMs boot", `Images that VMs boot. They are never changed by a VM: each writes to disks of its
own. The default image is pulled by itself when it is first needed.`, groupManage,
		newImageList(a), newImageShow(a), newImagePull(a), newImageDelete(a))
}

func newImageList(a *app) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List images",
		Long:    "List the images on this host, and those that could be pulled.",
		Example: "  banger image list\n  banger image list --json",
		Args:    noArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return runImageList(cmd.Context(), a, asJSON) },
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}

func runImageList(ctx context.Context, a *app, asJSON bool) error {
	c, err := a.client(ctx)
	if err != nil {
		return err
	}
	images, err := c.Images(ctx)
	if err != nil {
		return err
	}
	if asJSON {
		return a.writeJSON(list(images))
	}
	now := time.Now()
	rows := make([][]cell, 0, len(images))
	for _, image := range images {
		rows = append(rows, []cell{
			text(image.Name), presence(image.Present), text(sizeOrDash(image.Size)), text(since(image.Created, now)),
			text(orDash(image.Kernel)), text(orDash(strings.Join(image.UsedBy, ","))),
		})
	}
	return a.writeTable([]string{"NAME", "STATE", "SIZE", "CREATED", "KERNEL", "USED BY"}, rows)
}

func presence(present bool) cell {
	if present {
		return cell{text: "present", style: green}
	}
	return cell{text: "available", style: dim}
}

func sizeOrDash(bytes int64) string {
	if bytes == 0 {
		return "-"
	}
	return size.Human(bytes)
}

func newImageShow(a *app) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:               "show NAME",
		Short:             "Show all about an image",
		Long:              "Show all that is known about an image: what it was made of, and which VMs use it.",
		Example:           "  banger image show debian-bookworm\n  banger image show debian-bookworm --json | jq .source",
		Args:              exactly("the image's name"),
		ValidArgsFunction: first(a.live(allImages)),
		RunE:              func(cmd *cobra.Command, args []string) error { return runImageShow(cmd.Context(), a, args[0], asJSON) },
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}

func runImageShow(ctx context.Context, a *app, name string, asJSON bool) error {
	c, err := a.client(ctx)
	if err != nil {
		return err
	}
	image, err := c.Image(ctx, name)
	if err != nil {
		return err
	}
	if asJSON {
		return a.writeJSON(image)
	}
	rows := [][]cell{
		{text("name"), text(image.Name)},
		{text("state"), presence(image.Present)},
		{text("description"), text(orDash(image.Description))},
		{text("digest"), text(orDash(image.Digest))},
		{text("size"), text(sizeOrDash(image.Size))},
		{text("created"), text(createdAt(image.Created))},
		{text("kernel"), text(orDash(image.Kernel))},
		{text("used by"), text(orDash(strings.Join(image.UsedBy, ", ")))},
	}
	for _, note := range image.Notes {
		rows = append(rows, []cell{text("note"), {text: note, style: yellow}})
	}
	return a.writeTable(nil, append(rows, sourceRows(image.Source)...))
}

func createdAt(created time.Time) string {
	if created.IsZero() {
		return "-"
	}
	return created.Local().Format(time.DateTime) + " (" + since(created, time.Now()) + ")"
}

func sourceRows(source map[string]string) [][]cell {
	rows := make([][]cell, 0, len(source))
	for _, key := range slices.Sorted(maps.Keys(source)) {
		rows = append(rows, []cell{text(key), text(source[key])})
	}
	return rows
}

func newImagePull(a *app) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "pull NAME",
		Short: "Get an image",
		Long: `Get an image of the catalog. One that is not published is built on this machine
from the distribution's own signed archive, which takes a few minutes.`,
		Example:           "  banger image pull debian-bookworm",
		Args:              exactly("the image's name"),
		ValidArgsFunction: first(a.live(allImages)),
		RunE: func(cmd *cobra.Command, args []string) error {
			return pull(cmd.Context(), a, asJSON, func(ctx context.Context, c *client.Client) (any, string, error) {
				report, end := a.progress()
				defer end()
				image, err := c.PullImage(ctx, args[0], report)
				return image, image.Name, err
			})
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "write the image as JSON in place of its name")
	return cmd
}

// pull runs what gets an image or kernel, and writes what came of it.
func pull(ctx context.Context, a *app, asJSON bool, get func(context.Context, *client.Client) (value any, name string, err error)) error {
	c, err := a.client(ctx)
	if err != nil {
		return err
	}
	value, name, err := get(ctx, c)
	if err != nil {
		return err
	}
	if asJSON {
		return a.writeJSON(value)
	}
	return a.writeLines(name)
}

func newImageDelete(a *app) *cobra.Command {
	return &cobra.Command{
		Use:               "delete NAME...",
		Aliases:           []string{"rm"},
		Short:             "Delete images",
		Long:              "Delete images from this host. One that a VM uses is refused.",
		Example:           "  banger image delete debian-bookworm",
		Args:              atLeastOne("the image's name"),
		ValidArgsFunction: a.live(presentImages),
		RunE: func(cmd *cobra.Command, args []string) error {
			return deleteNamed(cmd.Context(), a, args, (*client.Client).DeleteImage)
		},
	}
}
