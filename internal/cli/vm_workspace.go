package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"banger/internal/api"
	"banger/internal/client"
	"banger/internal/workspace"
)

// maxPatch bounds a patch that is applied: it is kept in memory.
const maxPatch = 1 << 30

func newVMWorkspace(a *app) *cobra.Command {
	return newGroup("workspace", "Bring a git repository into a VM, and changes back", `Bring a git repository into a VM, and what changed there back. What is shipped, and
what never is, is said at 'banger vm run --help'.`, "",
		newWorkspacePrepare(a), newWorkspaceExport(a), newWorkspaceStatus(a))
}

// addTo adds what the commands that ship a workspace share.
func (f *workspaceFlags) addTo(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.branch, "branch", "", "create this `BRANCH` in the guest's checkout")
	flags.StringVar(&f.from, "from", "", "`REF` at which --branch starts (default HEAD)")
	flags.BoolVar(&f.untracked, "include-untracked", false, "ship untracked files too, except those that git ignores")
	flags.BoolVar(&f.dryRun, "dry-run", false, "list exactly the files that would be shipped, and end")
	flags.BoolVar(&f.noTooling, "no-tooling", false, "do not install the tools that mise.toml or .tool-versions ask for")
	completeFlag(cmd, "branch", cobra.NoFileCompletions)
	completeFlag(cmd, "from", cobra.NoFileCompletions)
}

// check refuses flags that do not fit together.
func (f *workspaceFlags) check(cmd *cobra.Command) error {
	for _, name := range []string{"branch", "from"} {
		if flag := cmd.Flags().Lookup(name); flag.Changed && flag.Value.String() == "" {
			return usagef("--%s is empty", name)
		}
	}
	if f.from != "" && f.branch == "" {
		return usagef("--from needs --branch: it says where that begins")
	}
	return nil
}

func newWorkspacePrepare(a *app) *cobra.Command {
	var flags workspaceFlags
	cmd := &cobra.Command{
		Use:   "prepare NAME [PATH]",
		Short: "Ship a repository into a running VM",
		Long: `Ship the git repository that PATH is in (default: the current directory) into a
running VM, as 'banger vm run PATH' does into a new one. It goes to /root/REPOSITORY,
where nothing may be yet.`,
		Example: "  banger vm workspace prepare sandbox\n  banger vm workspace prepare sandbox ~/src/tool --branch try",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) < 1 || len(args) > 2 {
				return usagef("give the VM's name, and at most one path")
			}
			return notEmpty(args)
		},
		ValidArgsFunction: nameThenDirectory(a),
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := flags.check(cmd); err != nil {
				return err
			}
			dir := "."
			if len(args) == 2 {
				dir = args[1]
			}
			return runWorkspacePrepare(cmd.Context(), a, args[0], dir, flags)
		},
	}
	flags.addTo(cmd)
	return cmd
}

// nameThenDirectory completes a VM and then a directory of this host.
func nameThenDirectory(a *app) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
		if len(args) == 0 {
			return a.live(vmNames)(cmd, args, prefix)
		}
		return nil, cobra.ShellCompDirectiveFilterDirs
	}
}

func runWorkspacePrepare(ctx context.Context, a *app, ref, dir string, flags workspaceFlags) error {
	p, err := a.prepareWorkspace(ctx, dir, flags)
	if err != nil {
		return err
	}
	defer p.close(a)
	if flags.dryRun {
		return a.writeFiles(p.list)
	}
	c, vm, err := a.running(ctx, ref)
	if err != nil {
		return err
	}
	guest := guestOf(c, vm.ID)
	if err := a.deliver(ctx, vm, guest, p, flags); err != nil {
		return err
	}
	if t := toolingOf(p); t != nil && !flags.noTooling {
		t.start(ctx, a, guest)
	}
	return a.writeLines(p.guestDir())
}

// workspaceOf finds a running VM and one of its workspaces: the one of this
// name, or the only one.
func (a *app) workspaceOf(ctx context.Context, args []string) (*client.Client, api.VM, string, *workspace.Record, error) {
	fail := func(err error) (*client.Client, api.VM, string, *workspace.Record, error) {
		return nil, api.VM{}, "", nil, err
	}
	c, vm, err := a.running(ctx, args[0])
	if err != nil {
		return fail(err)
	}
	found, err := records(vm)
	if err != nil {
		return fail(err)
	}
	names := slices.Sorted(maps.Keys(found))
	switch {
	case len(names) == 0:
		return fail(&api.Error{
			Kind: api.KindNotFound, Message: fmt.Sprintf("VM %q has no workspace", vm.Name),
			Hint: fmt.Sprintf("ship one with: banger vm workspace prepare %s PATH", vm.Name),
		})
	case len(args) == 2 && found[args[1]] == nil:
		return fail(&api.Error{Kind: api.KindNotFound, Message: fmt.Sprintf("VM %q has no workspace %q; it has: %s", vm.Name, args[1], strings.Join(names, ", "))})
	case len(args) == 2:
		return c, vm, args[1], found[args[1]], nil
	case len(names) > 1:
		return fail(&usageError{message: fmt.Sprintf("VM %q has several workspaces: %s", vm.Name, strings.Join(names, ", ")), hint: "name one after the VM"})
	}
	return c, vm, names[0], found[names[0]], nil
}

func nameAndWorkspace(_ *cobra.Command, args []string) error {
	if len(args) < 1 || len(args) > 2 {
		return usagef("give the VM's name, and at most one workspace")
	}
	return notEmpty(args)
}

func newWorkspaceExport(a *app) *cobra.Command {
	var output string
	var apply bool
	cmd := &cobra.Command{
		Use:   "export NAME [WORKSPACE]",
		Short: "Write what changed in the guest as a patch",
		Long: `Write a patch for 'git apply' of all in which the guest's files differ from what was
shipped: commits made there, uncommitted changes and new files that git does not
ignore, binary files included. Nothing is changed in the guest.

--apply puts it into the repository on this host instead: only if the files
concerned are still what was shipped, else it names those that are not and changes
nothing. It never touches .git.`,
		Example:           "  banger vm workspace export sandbox > changes.patch\n  banger vm workspace export sandbox --apply",
		Args:              nameAndWorkspace,
		ValidArgsFunction: first(a.live(vmNames)),
		RunE: func(cmd *cobra.Command, args []string) error {
			if apply && output != "" {
				return usagef("--apply changes the repository and --output writes a file: give one of them")
			}
			return runWorkspaceExport(cmd.Context(), a, args, output, apply)
		},
	}
	cmd.Flags().StringVarP(&output, "output", "o", "", "`FILE` to write to (default: stdout)")
	cmd.Flags().BoolVar(&apply, "apply", false, "change the repository on this host")
	return cmd
}

func runWorkspaceExport(ctx context.Context, a *app, args []string, output string, apply bool) error {
	c, vm, _, record, err := a.workspaceOf(ctx, args)
	if err != nil {
		return err
	}
	report := func(out io.Writer) error {
		said, err := capture(ctx, guestOf(c, vm.ID), record.ExportCommand(workspace.Patch), out)
		if failed, ok := errors.AsType[*guestError](err); ok {
			return fmt.Errorf("cannot export from VM %q: %w", vm.Name, record.ExportError(failed.status, said))
		}
		return err
	}
	if apply {
		patch := &boundedBuffer{max: maxPatch}
		if err := report(patch); err != nil {
			return err
		}
		paths, err := record.Apply(ctx, patch.Bytes())
		if err != nil {
			return err
		}
		a.note("changed in %s: %d file(s)", record.Root, len(paths))
		lines := make([]string, 0, len(paths))
		for _, p := range paths {
			lines = append(lines, workspace.Quote(p))
		}
		return a.writeLines(lines...)
	}
	if output == "" {
		return report(a.onScreen(a.env.Out))
	}
	f, err := os.Create(output)
	if err != nil {
		return fmt.Errorf("cannot write the patch: %w", err)
	}
	err = report(f)
	if closeErr := f.Close(); closeErr != nil {
		err = errors.Join(err, fmt.Errorf("cannot write the patch: %w", closeErr))
	}
	if err != nil {
		return errors.Join(err, os.Remove(output))
	}
	return nil
}

// boundedBuffer refuses more than it may hold.
type boundedBuffer struct {
	bytes.Buffer
	max int
}

func (b *boundedBuffer) Write(p []byte) (int, error) {
	if b.Len()+len(p) > b.max {
		return 0, fmt.Errorf("the patch has more than %d bytes", b.max)
	}
	return b.Buffer.Write(p)
}

// workspaceStatus is one workspace in the output of status --json.
type workspaceStatus struct {
	Name    string            `json:"name"`
	Root    string            `json:"root"`
	Guest   string            `json:"guest"`
	Tooling string            `json:"tooling,omitempty"`
	Changes []workspaceChange `json:"changes"`
}

type workspaceChange struct {
	Status string `json:"status"` // A, M, D or T, as git has them
	Path   string `json:"path"`
}

func newWorkspaceStatus(a *app) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:               "status NAME [WORKSPACE]",
		Short:             "List what changed in the guest",
		Long:              "List the files of a workspace in which the guest differs from what was shipped: A is\nadded, M modified, D deleted, T of another type. Nothing is changed in the guest.",
		Example:           "  banger vm workspace status sandbox\n  banger vm workspace status sandbox --json | jq '.changes | length'",
		Args:              nameAndWorkspace,
		ValidArgsFunction: first(a.live(vmNames)),
		RunE: func(cmd *cobra.Command, args []string) error {
			return runWorkspaceStatus(cmd.Context(), a, args, asJSON)
		},
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}

func runWorkspaceStatus(ctx context.Context, a *app, args []string, asJSON bool) error {
	c, vm, name, record, err := a.workspaceOf(ctx, args)
	if err != nil {
		return err
	}
	guest := guestOf(c, vm.ID)
	out := &boundedBuffer{max: 64 << 20}
	said, err := capture(ctx, guest, record.ExportCommand(workspace.Names), out)
	if failed, ok := errors.AsType[*guestError](err); ok {
		return fmt.Errorf("cannot compare in VM %q: %w", vm.Name, record.ExportError(failed.status, said))
	}
	if err != nil {
		return err
	}
	status := workspaceStatus{Name: name, Root: record.Root, Guest: record.Guest, Changes: []workspaceChange{}}
	for line := range strings.Lines(out.String()) {
		if kind, file, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "\t"); ok {
			status.Changes = append(status.Changes, workspaceChange{Status: kind, Path: file})
		}
	}
	if status.Tooling, err = newTooling(record.Guest).look(ctx, guest); err != nil {
		return err
	}
	if asJSON {
		return a.writeJSON(status)
	}
	a.note("%s in VM %q, from %s: %d change(s)", status.Guest, vm.Name, status.Root, len(status.Changes))
	if status.Tooling != "" {
		a.note("tools: %s", status.Tooling)
	}
	lines := make([]string, 0, len(status.Changes))
	for _, change := range status.Changes {
		lines = append(lines, change.Status+"  "+change.Path)
	}
	return a.writeLines(lines...)
}
