package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os/exec"
	"strings"

	"github.com/spf13/cobra"

	"banger/internal/api"
	"banger/internal/doctor"
)

func newDoctor(a *app) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Check what works on this host, and say what to do",
		Long: `Check this host: KVM, programs, the image and the kernel, names and ssh, the
database, free space, and the sizes that VMs get by default. There is a line for each
check, and under it what to do where something can be done. Nothing is changed, and
bangerd need not run. The exit status is 1 if something fails that banger needs.`,
		Example: "  banger doctor\n  banger doctor --json | jq '.[] | select(.status != \"pass\")'",
		GroupID: groupOther,
		Args:    noArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return runDoctor(cmd.Context(), a, asJSON) },
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}

func runDoctor(ctx context.Context, a *app, asJSON bool) error {
	rows, err := a.checkHost(ctx)
	if err != nil {
		return err
	}
	if asJSON {
		err = a.writeJSON(list(rows))
	} else {
		err = a.writeDoctor(rows)
	}
	if err == nil && doctor.Failed(rows) {
		return &exitError{exitFailure}
	}
	return err
}

// checkHost has bangerd's program look: it has all that is looked at in it,
// which this one has not, to be quick.
func (a *app) checkHost(ctx context.Context) ([]doctor.Row, error) {
	c, dirs, err := a.quietClient()
	if err != nil {
		return nil, err
	}
	launcher, err := a.launcher(c, dirs)
	if err != nil {
		return nil, err
	}
	program, err := launcher.Find()
	if err != nil {
		return nil, err
	}
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(ctx, program, "doctor")
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		said := strings.TrimPrefix(strings.TrimSpace(errs.String()), "bangerd: ")
		if said == "" {
			said = err.Error()
		}
		message, hint, _ := strings.Cut(said, "\nhint: ")
		return nil, &api.Error{Kind: api.KindState, Message: "cannot check this host: " + message, Hint: hint}
	}
	var rows []doctor.Row
	if err := json.Unmarshal(out.Bytes(), &rows); err != nil {
		return nil, fmt.Errorf("cannot understand what bangerd says about this host: %w", err)
	}
	return rows, nil
}

func (a *app) writeDoctor(rows []doctor.Row) error {
	styles := map[doctor.Status]style{doctor.Pass: green, doctor.Warn: yellow, doctor.Fail: red}
	table := make([][]cell, 0, len(rows))
	for _, row := range rows {
		table = append(table, []cell{{text: string(row.Status), style: styles[row.Status]}, text(row.Check), text(row.Detail)})
		if row.Hint != "" {
			table = append(table, []cell{text(""), text(""), {text: "-> " + row.Hint, style: bold}})
		}
	}
	return a.writeTable(nil, table)
}
