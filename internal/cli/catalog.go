package cli

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"banger/internal/api"
	"banger/internal/client"
	"banger/internal/progress"
	"banger/internal/size"
)

// What the commands of images and of kernels have in common.

// table is what a list shows.
type table struct {
	header  []string
	rows    [][]cell
	origins []string // of the rows
}

func (t *table) add(origin string, cells ...cell) {
	t.rows, t.origins = append(t.rows, cells), append(t.origins, origin)
}

// newList is `image list` or `kernel list`.
func newList[T any](a *app, noun, long, available string, present func(*client.Client, context.Context) ([]T, error),
	all func(*client.Client, context.Context, progress.Func) ([]T, error), show func([]T, time.Time) table,
) *cobra.Command {
	var withAvailable, asJSON bool
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   fmt.Sprintf("List %ss", noun),
		Long:    long,
		Example: fmt.Sprintf("  banger %s list\n  banger %s list --available\n  banger %s list --json", noun, noun, noun),
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			get := present
			if withAvailable {
				get = func(c *client.Client, ctx context.Context) ([]T, error) {
					report, end := a.progress()
					defer end()
					return all(c, ctx, report)
				}
			}
			return runList(cmd.Context(), a, withAvailable, asJSON, get, show)
		},
	}
	cmd.Flags().BoolVar(&withAvailable, "available", false, available)
	jsonFlag(cmd, &asJSON)
	return cmd
}

func runList[T any](ctx context.Context, a *app, origins, asJSON bool, get func(*client.Client, context.Context) ([]T, error), show func([]T, time.Time) table) error {
	c, err := a.client(ctx)
	if err != nil {
		return err
	}
	found, err := get(c, ctx)
	if err != nil {
		return err
	}
	if asJSON {
		return a.writeJSON(list(found))
	}
	t := show(found, time.Now())
	if origins { // where these may be told
		t.header = append(t.header, "ORIGIN")
		for i, origin := range t.origins {
			t.rows[i] = append(t.rows[i], text(orDash(origin)))
		}
	}
	return a.writeTable(t.header, t.rows)
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

// newShow is `image show` or `kernel show`; field is one of the JSON's, for the
// example.
func newShow[T any](a *app, noun, example, field string, names lookup, get func(*client.Client, context.Context, string) (T, error), rows func(T) [][]cell) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:               "show NAME",
		Short:             "Show all about " + withArticle(noun),
		Long:              fmt.Sprintf("Show all that is known about %s: what it was made of, and which VMs use it.", withArticle(noun)),
		Example:           fmt.Sprintf("  banger %s show %s\n  banger %s show %s --json | jq %s", noun, example, noun, example, field),
		Args:              exactly("the " + noun + "'s name"),
		ValidArgsFunction: first(a.live(names)),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			c, err := a.client(ctx)
			if err != nil {
				return err
			}
			found, err := get(c, ctx, args[0])
			if err != nil {
				return err
			}
			if asJSON {
				return a.writeJSON(found)
			}
			return a.writeTable(nil, rows(found))
		},
	}
	jsonFlag(cmd, &asJSON)
	return cmd
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

// receivedRows say where a bundle came from, and who made it.
func receivedRows(received *api.Received) [][]cell {
	if received == nil {
		return nil
	}
	return [][]cell{
		{text("bundle"), text(received.From)},
		{text("signed by"), text(cmp.Or(received.SignedBy, "nobody that was asked for"))},
	}
}

// untrustedFlag is what turns off the check of who made a bundle.
func untrustedFlag(cmd *cobra.Command, to *bool) {
	cmd.Flags().BoolVar(to, "untrusted", false, "take a bundle whoever has made it: look at no signature")
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

// newDelete is `image delete` or `kernel delete`.
func newDelete(a *app, noun, example string, names lookup, del func(*client.Client, context.Context, string) error) *cobra.Command {
	return &cobra.Command{
		Use:               "delete NAME...",
		Aliases:           []string{"rm"},
		Short:             fmt.Sprintf("Delete %ss", noun),
		Long:              fmt.Sprintf("Delete %ss from this host. One that a VM uses is refused.", noun),
		Example:           fmt.Sprintf("  banger %s delete %s", noun, example),
		Args:              atLeastOne("the " + noun + "'s name"),
		ValidArgsFunction: a.live(names),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			c, err := a.client(ctx)
			if err != nil {
				return err
			}
			return a.several(ctx, args, func(ctx context.Context, name string, _ progress.Func) (string, error) {
				return name, del(c, ctx, name)
			})
		},
	}
}
