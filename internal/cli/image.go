package cli

import (
	"context"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"banger/internal/api"
	"banger/internal/client"
	"banger/internal/objects"
	"banger/internal/size"
)

func newImage(a *app) *cobra.Command {
	return newGroup("image", "Images that VMs boot", `Images that VMs boot. They are never changed by a VM: each writes to disks of its
own. The default image is pulled by itself when it is first needed.`, groupManage,
		newList(a, "image", `List the images on this host and those that banger can make, and with --available
also what the catalogs of the configuration (catalog_urls) have, with its origin.`,
			"also list what the catalogs of the configuration have", (*client.Client).Images, (*client.Client).AvailableImages, imageTable),
		newShow(a, "image", "debian-bookworm", ".source", allImages, (*client.Client).Image, imageRows),
		newImagePull(a), newImageImport(a), newImageRegister(a), newImageBuild(a),
		newExport(a, "image", "debian-bookworm", presentImages, (*client.Client).ExportImage),
		newDelete(a, "image", "debian-bookworm", presentImages, (*client.Client).DeleteImage), newImagePrune(a))
}

func imageTable(images []api.Image, now time.Time) table {
	t := table{header: []string{"NAME", "STATE", "SIZE", "CREATED", "KERNEL", "USED BY"}}
	for _, image := range images {
		t.add(image.Origin, text(image.Name), presence(image.Present), text(sizeOrDash(image.Size)), text(since(image.Created, now)),
			text(orDash(image.Kernel)), text(orDash(strings.Join(image.UsedBy, ","))))
	}
	return t
}

func imageRows(image api.Image) [][]cell {
	rows := [][]cell{
		{text("name"), text(image.Name)},
		{text("state"), presence(image.Present)},
		{text("description"), text(orDash(image.Description))},
		{text("digest"), text(orDash(image.Digest))},
		{text("size"), text(sizeOrDash(image.Size))},
	}
	if usage := image.Usage; usage != nil {
		rows = append(rows, []cell{text("private"), text(size.Human(usage.Private) + ", free without the image")}, []cell{text("shared"), text(sharedSize(*usage))})
	}
	rows = append(rows, [][]cell{
		{text("created"), text(createdAt(image.Created))},
		{text("kernel"), text(orDash(image.Kernel))},
		{text("used by"), text(usedBy(image))},
	}...)
	rows = append(append(rows, receivedRows(image.Received)...), containerRows(image)...)
	for _, note := range image.Notes {
		rows = append(rows, []cell{text("note"), {text: note, style: yellow}})
	}
	return append(rows, sourceRows(image.Source)...)
}

// sharedSize is what an image has in common with others.
func sharedSize(usage api.ImageUsage) string {
	shared := size.Human(usage.Shared)
	if len(usage.SharedWith) > 0 {
		shared += " with " + strings.Join(usage.SharedWith, ", ")
	}
	return shared
}

// usedBy lists VMs with what they have on disks of their own.
func usedBy(image api.Image) string {
	users := orDash(strings.Join(image.UsedBy, ", "))
	if image.Usage != nil && len(image.UsedBy) > 0 {
		users += " (" + size.Human(image.Usage.VMs) + " on disks of their own)"
	}
	return users
}

// containerRows show what a container image says about its programs.
func containerRows(image api.Image) [][]cell {
	c := image.Container
	if c == nil {
		return nil
	}
	var rows [][]cell
	add := func(key, value string) {
		if value != "" {
			rows = append(rows, []cell{text(key), text(value)})
		}
	}
	add("init", orDash(image.Init))
	add("entrypoint", quoteWords(c.Entrypoint))
	add("cmd", quoteWords(c.Cmd))
	add("user", c.User)
	add("workdir", c.WorkingDir)
	for _, variable := range c.Env {
		add("env", variable)
	}
	return rows
}

// quoteWords shows arguments so that their bounds are seen.
func quoteWords(words []string) string {
	quoted := make([]string, 0, len(words))
	for _, word := range words {
		quoted = append(quoted, strconv.Quote(word))
	}
	return strings.Join(quoted, " ")
}

func newImagePull(a *app) *cobra.Command {
	var asJSON bool
	var request api.Pull
	cmd := &cobra.Command{
		Use:   "pull NAME|URL|REFERENCE",
		Short: "Get an image",
		Long: `Get an image of the catalog. One that is not published is built on this machine
from the distribution's own signed archive, which takes a few minutes.

A URL (https://...) is of a bundle that 'image export' has made: all of it is verified
before the image is there. If FILE.sig is beside it, the signature must be of one of
trusted_keys of the configuration; where that has keys, there must be a signature.

Else what has a '/', ':' or '@' in it is a reference to a container image in a
registry, as docker has them: any for linux/amd64 becomes an image that boots.
Credentials are those of docker and podman. A second pull gets what the tag means by
then.`,
		Example: `  banger image pull debian-bookworm
  banger image pull https://example.org/images/team.tar.zst
  banger image pull alpine:3.20
  banger image pull --name tools registry.example.org/team/tools:1.2
  banger vm run --image alpine-3.20`,
		Args:              exactly("the image's name, URL or reference"),
		ValidArgsFunction: first(a.live(allImages)),
		RunE: func(cmd *cobra.Command, args []string) error {
			return pull(cmd.Context(), a, asJSON, func(ctx context.Context, c *client.Client) (any, string, error) {
				report, end := a.progress()
				defer end()
				request.Name = args[0]
				switch {
				case request.Untrusted && !strings.Contains(request.Name, "://"):
					return nil, "", usagef("--untrusted is about bundles at a URL, and %q is none", request.Name)
				case strings.ContainsAny(request.Name, "/:@"):
					report.Step("pulling " + request.Name)
				case request.As != "" || request.Insecure:
					return nil, "", usagef("--name and --insecure are about images in registries and bundles, and %q is none", request.Name)
				}
				image, err := c.PullImage(ctx, request, report)
				return image, image.Name, err
			})
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "write the image as JSON in place of its name")
	cmd.Flags().StringVar(&request.As, "name", "", "call the image `NAME` (default: as in the bundle, or made of the reference)")
	cmd.Flags().BoolVar(&request.Insecure, "insecure", false, "allow a registry or server without TLS")
	untrustedFlag(cmd, &request.Untrusted)
	completeFlag(cmd, "name", cobra.NoFileCompletions)
	return cmd
}

// checkImageName refuses what cannot name an image before anything is done for
// it. bangerd checks it too.
func checkImageName(name string) error {
	err := objects.CheckName(name)
	if err == nil {
		return nil
	}
	refused := &usageError{message: "cannot name an image " + err.Error()}
	if strings.Contains(name, ":") {
		refused.hint = "names have no ':', and images no tags: NAME, or NAME-TAG"
	}
	return refused
}

func newImageImport(a *app) *cobra.Command {
	var asJSON bool
	var request api.Import
	cmd := &cobra.Command{
		Use:   "import PATH",
		Short: "Make an image of a file or directory",
		Long: `Make an image of a file or directory on this host: a bundle that 'image export' has
made, a container image (an OCI layout, as a directory or an archive, or what 'docker
save' writes), or a tar archive of a root file system. Archives may be compressed with
gzip, zstd or xz.

A bundle is verified before the image is there. If FILE.sig is beside it, the signature
must be of one of trusted_keys of the configuration; where that has keys, there must be
a signature.`,
		Example: `  docker save tools:1.2 -o tools.tar && banger image import tools.tar
  banger image import --name mini rootfs.tar.zst
  banger image import ./layout
  banger image import team.tar.zst`,
		Args: exactly("the path"),
		RunE: func(cmd *cobra.Command, args []string) error {
			path, err := filepath.Abs(args[0])
			if err != nil {
				return err
			}
			request.Path = path
			if cmd.Flags().Changed("name") {
				if err := checkImageName(request.Name); err != nil {
					return err
				}
			}
			return pull(cmd.Context(), a, asJSON, func(ctx context.Context, c *client.Client) (any, string, error) {
				report, end := a.progress()
				defer end()
				image, err := c.ImportImage(ctx, request, report)
				return image, image.Name, err
			})
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "write the image as JSON in place of its name")
	cmd.Flags().StringVar(&request.Name, "name", "", "call the image `NAME` (default: made of what it was saved as, or of the path)")
	untrustedFlag(cmd, &request.Untrusted)
	completeFlag(cmd, "name", cobra.NoFileCompletions)
	return cmd
}

func newImagePrune(a *app) *cobra.Command {
	var force, dryRun, asJSON bool
	cmd := &cobra.Command{
		Use:   "prune",
		Short: "Remove what can be fetched again",
		Long: `Remove the downloaded layers of container images, and what killed processes have
left of images. Images stay. It asks first, except with --force.`,
		Example: "  banger image prune --dry-run\n  banger image prune --force",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !dryRun && !force && (asJSON || !isTerminal(a.env.In)) {
				return &usageError{message: "cannot ask whether to remove layers: there is no terminal to ask on", hint: "use --force to remove them without a question, or --dry-run"}
			}
			return runImagePrune(cmd.Context(), a, force, dryRun, asJSON)
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "do not ask")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "only say what would be freed")
	cmd.Flags().BoolVar(&asJSON, "json", false, "write what was freed as JSON; needs --force or --dry-run")
	return cmd
}

func runImagePrune(ctx context.Context, a *app, force, dryRun, asJSON bool) error {
	c, err := a.client(ctx)
	if err != nil {
		return err
	}
	if !force || dryRun {
		would, err := c.PruneImages(ctx, api.Prune{DryRun: true})
		if err != nil {
			return err
		}
		switch {
		case dryRun && asJSON:
			return a.writeJSON(would)
		case dryRun:
			return a.writeLines(fmt.Sprintf("would remove %d layers and free %s", would.Layers, size.Human(would.Bytes)))
		}
		yes, err := a.ask(ctx, fmt.Sprintf("Remove %d layers and free %s?", would.Layers, size.Human(would.Bytes)))
		if err != nil || !yes {
			return err
		}
	}
	pruned, err := c.PruneImages(ctx, api.Prune{})
	if err != nil {
		return err
	}
	if asJSON {
		return a.writeJSON(pruned)
	}
	return a.writeLines(fmt.Sprintf("removed %d layers and freed %s", pruned.Layers, size.Human(pruned.Bytes)))
}
