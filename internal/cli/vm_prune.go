package cli

import (
	"bufio"
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"banger/internal/api"
	"banger/internal/progress"
	"banger/internal/size"
)

type vmPruneOptions struct {
	force, json bool
}

func newVMPrune(a *app) *cobra.Command {
	var o vmPruneOptions
	cmd := &cobra.Command{
		Use:     "prune",
		Short:   "Delete all stopped VMs",
		Long:    "Delete all VMs that are stopped, with their disks. It asks first, except with\n--force. The names of those deleted are written.",
		Example: "  banger vm prune\n  banger vm prune --force",
		Args:    noArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return runVMPrune(cmd.Context(), a, o) },
	}
	cmd.Flags().BoolVarP(&o.force, "force", "f", false, "do not ask")
	cmd.Flags().BoolVar(&o.json, "json", false, "write the names of those deleted as JSON; needs --force")
	return cmd
}

func runVMPrune(ctx context.Context, a *app, o vmPruneOptions) error {
	if !o.force && (o.json || !isTerminal(a.env.In)) {
		return &usageError{message: "cannot ask whether to delete VMs: there is no terminal to ask on", hint: "use --force to delete them without a question"}
	}
	c, err := a.client(ctx)
	if err != nil {
		return err
	}
	vms, err := c.VMs(ctx)
	if err != nil {
		return err
	}
	names, ids := map[string]string{}, []string{}
	var used int64
	for _, vm := range vms {
		if vm.State == api.StateStopped {
			names[vm.ID] = vm.Name
			ids = append(ids, vm.ID)
			used += vm.DiskUsed
		}
	}
	if len(ids) == 0 {
		if o.json {
			return a.writeJSON([]string{})
		}
		a.note("there are no stopped VMs")
		return nil
	}
	if !o.force {
		listed := make([]string, 0, len(ids))
		for _, id := range ids {
			listed = append(listed, names[id])
		}
		yes, err := a.ask(ctx, fmt.Sprintf("Delete %s and free %s?", strings.Join(listed, ", "), size.Human(used)))
		if err != nil || !yes {
			return err
		}
	}
	if o.json {
		deleted := []string{}
		for _, id := range ids {
			// Not by force: one that was started meanwhile is refused.
			if err := c.DeleteVM(ctx, id, api.DeleteVM{}); err != nil {
				return err
			}
			deleted = append(deleted, names[id])
		}
		return a.writeJSON(deleted)
	}
	return a.several(ctx, ids, func(ctx context.Context, id string, _ progress.Func) (string, error) {
		return names[id], c.DeleteVM(ctx, id, api.DeleteVM{})
	})
}

// ask waits for a yes; everything else is a no.
func (a *app) ask(ctx context.Context, question string) (bool, error) {
	fmt.Fprintf(a.env.Err, "%s [y/N] ", question)
	answer := make(chan string, 1)
	go func() {
		line, err := bufio.NewReader(a.env.In).ReadString('\n')
		if err != nil {
			line = ""
		}
		answer <- strings.ToLower(strings.TrimSpace(line))
	}()
	select {
	case line := <-answer:
		return line == "y" || line == "yes", nil
	case <-ctx.Done():
		return false, context.Cause(ctx)
	}
}
