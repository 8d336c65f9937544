package cli

import (
	"archive/tar"
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"banger/internal/agent"
	"banger/internal/api"
	"banger/internal/client"
	"banger/internal/hostenv"
	"banger/internal/recipe"
	"banger/internal/regular"
)

type imageBuildOptions struct {
	name string
	// path is a recipe, or the context of a Dockerfile.
	path string
	json bool
	// What only a Dockerfile has.
	dockerfile, target string
	arguments, load    []string
	sizing             sizing
}

func newImageBuild(a *app) *cobra.Command {
	var o imageBuildOptions
	cmd := &cobra.Command{
		Use:   "build -t NAME RECIPE|CONTEXT",
		Short: "Make an image by a recipe or a Dockerfile",
		Long: `Make an image in a VM, which is gone afterwards whatever happens: nothing of a build
runs on this host, and of your files only what is named here gets into it (no file_sync).

RECIPE is a TOML file: a base image, or a suite of Debian, and what is added to it:

  base = "debian-bookworm"        # or: suite = "trixie"
  packages = ["nginx"]            # of the base's own distribution, by apt
  scripts = ["set-up.sh"]         # run in the end, as root, by sh -eu

  [[file]]
  path = "/etc/nginx/conf.d/site.conf"
  source = "site.conf"            # beside the recipe, as the scripts are
  mode = "0644"

CONTEXT is a directory with a Dockerfile. Docker in a VM of debian-bookworm builds it,
so that COPY, ARG, stages and .dockerignore are what they are to Docker (all of the
context is sent to the VM, and what .dockerignore names is left out there); what comes
of it is imported as 'image import' does it. What FROM names comes from registries, or
from archives that 'docker save' has made, with --load. RUN has this host's proxies.`,
		Example: `  banger image build -t web web.toml
  banger image build -t app .
  banger image build -t app -f docker/Dockerfile --target test --build-arg VERSION=3 .
  banger vm run --rm --image app`,
		Args: exactly("the recipe or the directory"),
		RunE: func(cmd *cobra.Command, args []string) error {
			o.path = args[0]
			return runImageBuild(cmd.Context(), a, cmd, o)
		},
	}
	flags := cmd.Flags()
	flags.StringVarP(&o.name, "name", "t", "", "call the image `NAME`; must be given")
	flags.StringVarP(&o.dockerfile, "file", "f", "", "the Dockerfile, if it is not `FILE` Dockerfile of the context")
	flags.StringArrayVar(&o.arguments, "build-arg", nil, "set an ARG of the Dockerfile: `KEY=VALUE`, or KEY, which has its value here; may be repeated")
	flags.StringVar(&o.target, "target", "", "build this `STAGE` of the Dockerfile")
	flags.StringArrayVar(&o.load, "load", nil, "give Docker the images of this archive before: `FILE`; may be repeated")
	flags.BoolVar(&o.json, "json", false, "write the image as JSON in place of its name")
	o.sizing.addTo(cmd)
	for _, name := range []string{"name", "build-arg", "target"} {
		completeFlag(cmd, name, cobra.NoFileCompletions)
	}
	return cmd
}

// builder is the image with the Docker engine that builds, and builtImage what
// its result is called there.
const (
	builder    = "debian-bookworm"
	builtImage = "banger-build"
)

// guestBuild is where in the guest a build's files are.
const guestBuild = "/var/tmp/banger-build"

func runImageBuild(ctx context.Context, a *app, cmd *cobra.Command, o imageBuildOptions) error {
	if o.name == "" {
		return &usageError{message: "the image needs a name", hint: "give it with -t NAME"}
	}
	if err := checkImageName(o.name); err != nil {
		return err
	}
	info, err := os.Stat(o.path)
	if err != nil {
		return fmt.Errorf("cannot build %q: %w", o.path, reason(err))
	}
	build := build{app: a, options: o, request: api.CreateVM{Image: builder, Start: true, Ephemeral: true, Clean: true}}
	if info.IsDir() {
		if err := build.readDockerfile(); err != nil {
			return err
		}
	} else {
		for _, name := range []string{"file", "build-arg", "target", "load"} {
			if cmd.Flags().Changed(name) {
				return usagef("--%s is about Dockerfiles, and %q is not the directory of one", name, o.path)
			}
		}
		if build.recipe, err = recipe.Read(o.path); err != nil {
			return err
		}
		build.request.Image, build.request.Kernel = build.recipe.Base, build.recipe.Kernel
	}
	return build.run(ctx)
}

// build is one `image build`.
type build struct {
	app     *app
	options imageBuildOptions
	request api.CreateVM
	recipe  *recipe.Recipe // nil for a Dockerfile
	// inContext is the Dockerfile's path in the context, empty if it is
	// elsewhere or a link; digest is of its content.
	inContext, digest string

	client *client.Client
	vm     api.VM
	guest  *agent.Client
}

// maxDockerfile bounds what is read of a Dockerfile, in bytes.
const maxDockerfile = 16 << 20

// readDockerfile finds out where the Dockerfile is.
func (b *build) readDockerfile() error {
	for _, argument := range b.options.arguments {
		if name, _, _ := strings.Cut(argument, "="); name == "" {
			return usagef("--build-arg %q is not of the form KEY=VALUE, or KEY", argument)
		}
	}
	for _, archive := range b.options.load {
		file, _, err := regular.Open(archive)
		if err != nil {
			return fmt.Errorf("cannot load %q: %w", archive, reason(err))
		}
		if err := file.Close(); err != nil {
			return err
		}
	}
	if b.options.dockerfile == "" {
		b.options.dockerfile = filepath.Join(b.options.path, "Dockerfile")
	}
	text, _, err := regular.Read(b.options.dockerfile, maxDockerfile)
	if errors.Is(err, os.ErrNotExist) {
		return &usageError{message: fmt.Sprintf("there is no %q", b.options.dockerfile), hint: "say where the Dockerfile is with -f FILE, or give a recipe"}
	}
	if err != nil {
		return fmt.Errorf("cannot read the Dockerfile: %w", err)
	}
	sum := sha256.Sum256(text)
	b.digest = "sha256:" + hex.EncodeToString(sum[:])
	within, err := relativeTo(b.options.path, b.options.dockerfile)
	if err != nil {
		return err
	}
	info, err := os.Lstat(b.options.dockerfile)
	if err != nil {
		return fmt.Errorf("cannot read the Dockerfile: %w", err)
	}
	// A link may lead elsewhere in the VM, or nowhere: its file is sent.
	if filepath.IsLocal(within) && info.Mode().IsRegular() {
		b.inContext = filepath.ToSlash(within)
	}
	return nil
}

// relativeTo returns the path of a file from a directory, with links on the way
// to both resolved.
func relativeTo(dir, file string) (string, error) {
	dir, err := filepath.EvalSymlinks(dir)
	if err == nil {
		dir, err = filepath.Abs(dir)
	}
	if err != nil {
		return "", err
	}
	parent, err := filepath.EvalSymlinks(filepath.Dir(file))
	if err == nil {
		parent, err = filepath.Abs(parent)
	}
	if err != nil {
		return "", err
	}
	return filepath.Rel(dir, filepath.Join(parent, filepath.Base(file)))
}

func (b *build) run(ctx context.Context) (err error) {
	if b.client, err = b.app.client(ctx); err != nil {
		return err
	}
	if err := b.nameFree(ctx); err != nil {
		return err
	}
	spec, err := b.app.spec(b.options.sizing)
	if err != nil {
		return err
	}
	b.request.VCPU, b.request.MemoryMiB, b.request.DiskBytes = spec.VCPU, spec.MemoryMiB, spec.DiskBytes
	b.request.Environment = hostenv.Select(b.app.env.Getenv)
	if b.vm, err = b.app.create(ctx, b.client, b.request, spec); err != nil {
		return err
	}
	b.guest = guestOf(b.client, b.vm.ID)
	var image api.Image
	err = b.app.ephemeral(ctx, b.client, b.vm, func() error {
		if err := b.app.waitReady(ctx, b.guest, b.vm.Name); err != nil {
			return err
		}
		prepare, commit := b.fromDockerfile, api.Commit{
			Container: builtImage, Description: "built of a Dockerfile", Source: map[string]string{"from": "Dockerfile", "dockerfile": b.digest},
		}
		if b.recipe != nil {
			prepare, commit = b.fromRecipe, api.Commit{
				Description: cmp.Or(b.recipe.Description, "built by a recipe"), Source: map[string]string{"from": "recipe", "recipe": b.recipe.Digest},
			}
		}
		if err := prepare(ctx); err != nil {
			return err
		}
		commit.Name = b.options.name
		report, end := b.app.progress()
		defer end()
		image, err = b.client.CommitVM(ctx, b.vm.ID, commit, report)
		return err
	})
	if err != nil {
		return err
	}
	if b.options.json {
		return b.app.writeJSON(image)
	}
	return b.app.writeLines(image.Name)
}

// nameFree refuses a name that is taken before much is done. bangerd looks
// again in the end.
func (b *build) nameFree(ctx context.Context) error {
	images, err := b.client.Images(ctx)
	if err != nil {
		return err
	}
	taken := func(image api.Image) bool { return image.Name == b.options.name }
	if slices.ContainsFunc(images, taken) {
		return &api.Error{Kind: api.KindExists, Message: fmt.Sprintf("cannot build the image %q: the name is taken", b.options.name), Hint: "choose another name, or delete that image"}
	}
	return nil
}

// fromRecipe makes the guest what the recipe says.
func (b *build) fromRecipe(ctx context.Context) error {
	r := b.recipe
	if len(r.Packages) > 0 {
		// Lists and archives are not what anybody wants in an image.
		const install = `export DEBIAN_FRONTEND=noninteractive
apt-get update
apt-get install --yes --no-install-recommends -- "$@"
apt-get clean
rm -rf /var/lib/apt/lists/*`
		if err := b.guestRuns(ctx, "the installation of packages", guestCommand{args: append([]string{"sh", "-euc", install, "sh"}, r.Packages...)}); err != nil {
			return err
		}
	}
	if err := b.upload(ctx, r.Files); err != nil {
		return err
	}
	for _, script := range r.Scripts {
		// Not on stdin, which would be that of its commands. /tmp is not in the image.
		const place = "/tmp/banger-build"
		file := recipe.File{Path: path.Join(place, path.Base(script.Name)), Mode: 0o700, Content: []byte(script.Text)}
		if err := b.upload(ctx, []recipe.File{file}); err != nil {
			return err
		}
		if err := b.guestRuns(ctx, script.Name, guestCommand{args: []string{"sh", "-eu", file.Path}}); err != nil {
			return err
		}
	}
	return nil
}

// upload puts files into the guest.
func (b *build) upload(ctx context.Context, files []recipe.File) error {
	var archive bytes.Buffer
	out := tar.NewWriter(&archive)
	for _, file := range files {
		header := &tar.Header{Typeflag: tar.TypeReg, Name: strings.TrimPrefix(file.Path, "/"), Mode: file.Mode, Size: int64(len(file.Content)), ModTime: time.Now()}
		if err := out.WriteHeader(header); err != nil {
			return err
		}
		if _, err := out.Write(file.Content); err != nil {
			return err
		}
	}
	if err := out.Close(); err != nil {
		return err
	}
	if err := b.guest.Upload(ctx, "/", &archive); err != nil {
		return fmt.Errorf("cannot put the files of the recipe into the VM: %w", err)
	}
	return nil
}

// fromDockerfile has Docker build.
func (b *build) fromDockerfile(ctx context.Context) error {
	for _, name := range b.options.load {
		archive, _, err := regular.Open(name)
		if err != nil {
			return fmt.Errorf("cannot load %q: %w", name, reason(err))
		}
		err = b.guestRuns(ctx, "docker load", guestCommand{args: []string{"docker", "load"}, stdin: archive})
		if err := errors.Join(err, archive.Close()); err != nil {
			return err
		}
	}
	report, end := b.app.progress()
	copier := copier{guest: b.guest, report: report}
	err := copier.upload(ctx, filepath.Clean(b.options.path)+"/.", guestBuild+"/context")
	dockerfile := path.Join(guestBuild, "context", b.inContext)
	if err == nil && b.inContext == "" {
		dockerfile, err = b.uploadDockerfile(ctx, copier)
	}
	end()
	if err != nil {
		return err
	}
	args := []string{"docker", "build", "--progress=plain", "--tag", builtImage, "--file", dockerfile}
	for _, argument := range buildArguments(b.options.arguments, b.app.env.Getenv) {
		args = append(args, "--build-arg", argument)
	}
	if b.options.target != "" {
		args = append(args, "--target", b.options.target)
	}
	return b.guestRuns(ctx, "docker build", guestCommand{args: append(args, guestBuild+"/context"), env: []string{"DOCKER_BUILDKIT=1"}})
}

// buildArguments returns what Docker in the guest is told by --build-arg: the
// proxies, as Docker's client does with those of its configuration, and the
// user's own. Of proxies only the names: the guest's environment says how they
// are reached from there, and nothing else has their passwords. One that the user
// sets in either case is the user's in both, since BuildKit takes them for one. A
// name of another variable stands for its value here, if it has one.
func buildArguments(own []string, getenv func(string) string) []string {
	proxies := hostenv.ProxyVariables()
	var args []string
	for _, argument := range own {
		name, _, valued := strings.Cut(argument, "=")
		same := func(proxy string) bool { return strings.EqualFold(proxy, name) }
		switch {
		case valued:
			proxies = slices.DeleteFunc(proxies, same)
			args = append(args, argument)
		case slices.ContainsFunc(hostenv.ProxyVariables(), same):
			// Passed, or set by the user, without that.
		case getenv(name) != "":
			args = append(args, name+"="+getenv(name))
		}
	}
	return append(proxies, args...)
}

// uploadDockerfile copies a Dockerfile that is not in the context, and what it
// wants to be ignored there, and returns where it is.
func (b *build) uploadDockerfile(ctx context.Context, copier copier) (string, error) {
	target := guestBuild + "/Dockerfile"
	if err := copier.upload(ctx, b.options.dockerfile, target); err != nil {
		return "", err
	}
	ignore := b.options.dockerfile + ".dockerignore"
	if _, err := os.Stat(ignore); err == nil {
		return target, copier.upload(ctx, ignore, target+".dockerignore")
	} else if !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("cannot read %q: %w", ignore, reason(err))
	}
	return target, nil
}

// guestRuns runs a command of the build, which says on stderr what it does.
func (b *build) guestRuns(ctx context.Context, what string, command guestCommand) error {
	command.stdout = b.app.env.Err
	command.disposable = true // the VM is deleted
	if command.stdin == nil {
		command.noInput = true
	}
	err := b.app.runInGuest(ctx, b.client, b.vm.ID, b.guest, command)
	if exit, ok := errors.AsType[*exitError](err); ok {
		return fmt.Errorf("cannot build the image %q: %s ended with status %d", b.options.name, what, exit.code)
	}
	return err
}
