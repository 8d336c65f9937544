package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/spf13/cobra"

	"banger/internal/api"
	"banger/internal/client"
	"banger/internal/version"
)

func newDaemon(a *app) *cobra.Command {
	return newGroup("daemon", "Look after bangerd", `Look after bangerd, which does the work. It is started by the first command that
needs it, and replaced by the first command of another version. VMs do not notice
whether it runs.`, groupOther,
		newDaemonStatus(a), newDaemonStop(a), newDaemonLogs(a))
}

// daemonStatus is what `banger daemon status --json` writes.
type daemonStatus struct {
	Running bool        `json:"running"`
	Current bool        `json:"current"` // of the same build as this banger
	Socket  string      `json:"socket"`
	Log     string      `json:"log"`
	Daemon  *api.Daemon `json:"daemon,omitempty"`
}

func newDaemonStatus(a *app) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:     "status",
		Short:   "Say whether bangerd runs",
		Long:    "Say whether bangerd runs, and which. It is not started by this. The exit status is\n0 if it runs and 1 if not.",
		Example: "  banger daemon status\n  banger daemon status --json",
		Args:    noArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return runDaemonStatus(cmd.Context(), a, asJSON) },
	}
	jsonFlag(cmd, &asJSON)
	return cmd
}

func runDaemonStatus(ctx context.Context, a *app, asJSON bool) error {
	c, dirs, err := a.quietClient()
	if err != nil {
		return err
	}
	status := daemonStatus{Socket: dirs.Socket(), Log: dirs.DaemonLog()}
	daemon, err := c.Daemon(ctx)
	switch {
	case err == nil:
		status.Running, status.Current, status.Daemon = true, daemon.Build == version.Build(), &daemon
	case !errors.Is(err, client.ErrNotRunning):
		return err
	}
	if asJSON {
		err = a.writeJSON(status)
	} else {
		err = a.writeTable(nil, statusRows(status))
	}
	if err == nil && !status.Running {
		return &exitError{exitFailure}
	}
	return err
}

func statusRows(status daemonStatus) [][]cell {
	rows := [][]cell{{text("bangerd"), {text: "not running", style: yellow}}}
	if d := status.Daemon; d != nil {
		rows = [][]cell{
			{text("bangerd"), {text: "running", style: green}},
			{text("version"), text(fmt.Sprintf("%s (build %s)", d.Version, d.Build))},
			{text("pid"), number(d.PID)},
			{text("started"), text(createdAt(d.Started))},
			{text("vms"), number(d.VMs)},
		}
		if !status.Current {
			rows = append(rows, []cell{text("note"), {text: "it is of another build than this banger; the next command that needs it replaces it", style: yellow}})
		}
	}
	return append(rows, []cell{text("socket"), text(status.Socket)}, []cell{text("log"), text(status.Log)})
}

func newDaemonStop(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "stop",
		Short:   "Stop bangerd; VMs go on",
		Long:    "Stop bangerd. VMs go on; the next command that needs bangerd starts it again. It is\nno error if it does not run.",
		Example: "  banger daemon stop",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, _, err := a.quietClient()
			if err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), time.Minute)
			defer cancel()
			err = c.StopDaemon(ctx)
			if errors.Is(err, client.ErrNotRunning) {
				a.note("bangerd is not running")
				return nil
			}
			return err
		},
	}
}

func newDaemonLogs(a *app) *cobra.Command {
	var lines int
	var follow bool
	cmd := &cobra.Command{
		Use:     "logs",
		Short:   "Show bangerd's log",
		Long:    "Show the end of bangerd's log. bangerd need not run.",
		Example: "  banger daemon logs\n  banger daemon logs -n 1000\n  banger daemon logs -f",
		Args:    noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if lines < 0 {
				return usagef("--lines %d is negative", lines)
			}
			return runDaemonLogs(cmd.Context(), a, lines, follow)
		},
	}
	cmd.Flags().IntVarP(&lines, "lines", "n", 200, "show this `NUMBER` of lines from the end; 0 for all")
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on with what comes, until Ctrl-C")
	completeFlag(cmd, "lines", cobra.NoFileCompletions)
	return cmd
}

func runDaemonLogs(ctx context.Context, a *app, lines int, follow bool) error {
	dirs, err := a.dirs()
	if err != nil {
		return err
	}
	log, err := os.Open(dirs.DaemonLog())
	if errors.Is(err, fs.ErrNotExist) {
		return &api.Error{Kind: api.KindNotFound, Message: "there is no log of bangerd yet: " + dirs.DaemonLog(), Hint: "it is made when bangerd is first started"}
	}
	if err != nil {
		return fmt.Errorf("cannot read bangerd's log: %w", err)
	}
	defer log.Close()
	if lines > 0 {
		if err := seekLines(log, lines); err != nil {
			return fmt.Errorf("cannot read bangerd's log: %w", err)
		}
	}
	for {
		if _, err := io.Copy(a.env.Out, log); err != nil {
			return fmt.Errorf("cannot show bangerd's log: %w", err)
		}
		if !follow {
			return nil
		}
		select {
		case <-time.After(200 * time.Millisecond):
		case <-ctx.Done():
			return nil
		}
	}
}

// seekLines goes to where the last n lines begin.
func seekLines(file io.ReadSeeker, n int) error {
	end, err := file.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	block := make([]byte, 64<<10)
	for newlines, last := 0, end; end > 0; {
		size := min(end, int64(len(block)))
		end -= size
		if _, err := file.Seek(end, io.SeekStart); err != nil {
			return err
		}
		if _, err := io.ReadFull(file, block[:size]); err != nil {
			return err
		}
		for i := int(size) - 1; i >= 0; i-- {
			// The newline at the very end ends the last line.
			if at := end + int64(i); block[i] != '\n' || at == last-1 {
				continue
			} else if newlines++; newlines == n {
				_, err := file.Seek(at+1, io.SeekStart)
				return err
			}
		}
	}
	_, err = file.Seek(0, io.SeekStart)
	return err
}
