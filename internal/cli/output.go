package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"golang.org/x/term"
)

// isTerminal reports whether a stream is one.
func isTerminal(stream any) bool {
	f := file(stream)
	return f != nil && term.IsTerminal(int(f.Fd()))
}

// jsonFlag adds --json to a command that reads.
func jsonFlag(cmd *cobra.Command, to *bool) {
	cmd.Flags().BoolVar(to, "json", false, "write JSON, for programs")
}

// writeJSON writes a value as bangerd gives it; field names are stable.
func (a *app) writeJSON(value any) error {
	encoder := json.NewEncoder(a.env.Out)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(value); err != nil {
		return fmt.Errorf("cannot write: %w", err)
	}
	return nil
}

// list is never null in JSON.
func list[T any](items []T) []T {
	if items == nil {
		return []T{}
	}
	return items
}

// style is an SGR sequence; the empty one is plain.
type style string

const (
	plain  style = ""
	bold   style = "\x1b[1m"
	green  style = "\x1b[32m"
	yellow style = "\x1b[33m"
	red    style = "\x1b[31m"
	dim    style = "\x1b[2m"
	reset        = "\x1b[0m"
)

// cell is one field of a table.
type cell struct {
	text  string
	style style
}

func text(s string) cell { return cell{text: s} }

func number(n int) cell { return cell{text: strconv.Itoa(n)} }

// colour reports whether a stream takes colour: never with NO_COLOR (set to
// anything, see no-color.org) and on terminals only.
func (a *app) colour(stream io.Writer) bool {
	return a.env.Getenv("NO_COLOR") == "" && a.env.Getenv("TERM") != "dumb" && isTerminal(stream)
}

// writeTable writes aligned columns, two spaces apart. header may be nil.
func (a *app) writeTable(header []string, rows [][]cell) error {
	if header != nil {
		head := make([]cell, 0, len(header))
		for _, title := range header {
			head = append(head, cell{text: title, style: bold})
		}
		rows = append([][]cell{head}, rows...)
	}
	var widths []int
	for _, row := range rows {
		for i, c := range row {
			if i == len(widths) {
				widths = append(widths, 0)
			}
			widths[i] = max(widths[i], utf8.RuneCountInString(printable(c.text)))
		}
	}
	colour := a.colour(a.env.Out)
	var out strings.Builder
	for _, row := range rows {
		var line strings.Builder
		for i, c := range row {
			shown := printable(c.text)
			padding := strings.Repeat(" ", widths[i]-utf8.RuneCountInString(shown)+2)
			if colour && c.style != plain {
				shown = string(c.style) + shown + reset
			}
			line.WriteString(shown)
			if i < len(row)-1 {
				line.WriteString(padding)
			}
		}
		out.WriteString(strings.TrimRight(line.String(), " "))
		out.WriteByte('\n')
	}
	if _, err := io.WriteString(a.env.Out, out.String()); err != nil {
		return fmt.Errorf("cannot write: %w", err)
	}
	return nil
}

// writeLines writes each item on a line of its own.
func (a *app) writeLines(items ...string) error {
	for _, item := range items {
		if _, err := fmt.Fprintln(a.env.Out, printable(item)); err != nil {
			return fmt.Errorf("cannot write: %w", err)
		}
	}
	return nil
}

// printable drops what could play with the terminal: names of processes and
// the like come from guests.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t':
			return ' '
		case !unicode.IsPrint(r):
			return -1
		}
		return r
	}, s)
}

// oneLine makes one line of a message, without control characters.
func oneLine(s string) string {
	return printable(strings.Join(strings.FieldsFunc(s, func(r rune) bool { return r == '\n' || r == '\r' }), "; "))
}

// since writes how long ago something was, as people say it.
func since(then, now time.Time) string {
	if then.IsZero() {
		return "-"
	}
	return span(now.Sub(then)) + " ago"
}

// span writes a duration in its largest unit.
func span(d time.Duration) string {
	switch {
	case d < time.Second:
		return "0s"
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm", int(d.Minutes()))
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", int(d.Hours()))
	default:
		return fmt.Sprintf("%dd", int(d.Hours()/24))
	}
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
