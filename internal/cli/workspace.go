package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"banger/internal/agent"
	"banger/internal/agent/wire"
	"banger/internal/api"
	"banger/internal/progress"
	"banger/internal/workspace"
)

// workspaceFlags say what of a repository is shipped, and how.
type workspaceFlags struct {
	branch, from string
	untracked    bool
	dryRun       bool
	noTooling    bool
}

// prepared is a repository that was looked at and may be shipped.
type prepared struct {
	repo *workspace.Repo
	list *workspace.List
	// ship is nil after a dry run.
	ship *workspace.Shipment
}

func (p *prepared) close(a *app) {
	if p != nil && p.ship != nil {
		if err := p.ship.Close(); err != nil {
			a.warn("cannot remove temporary files: %v", err)
		}
	}
}

// guestDir is where it goes in the guest.
func (p *prepared) guestDir() string { return path.Join(guestHome, p.repo.Name) }

// prepareWorkspace does everything that can go wrong with a repository before
// there is a VM. The caller closes what it returns.
func (a *app) prepareWorkspace(ctx context.Context, dir string, flags workspaceFlags) (*prepared, error) {
	repo, err := workspace.Open(ctx, dir)
	if err != nil {
		return nil, err
	}
	list, err := repo.List(ctx, flags.untracked)
	if err != nil {
		return nil, fmt.Errorf("cannot list the files of %q: %w", repo.Root, err)
	}
	p := &prepared{repo: repo, list: list}
	if flags.dryRun {
		return p, nil
	}
	if list.Untracked > 0 && !flags.untracked {
		a.note("not shipped: %d untracked file(s); --include-untracked ships them", list.Untracked)
	}
	for _, name := range list.Nested {
		a.note("not shipped: the repository in %s, which is not part of this one", oneLine(name))
	}
	if p.ship, err = repo.Ship(ctx, list, workspace.Options{Branch: flags.branch, From: flags.from}); err != nil {
		if _, ok := errors.AsType[*api.Error](err); ok {
			return nil, err
		}
		return nil, fmt.Errorf("cannot make %q ready: %w", repo.Root, err)
	}
	if p.ship.OriginSecret {
		a.note("the password in the URL of the origin stays here")
	}
	return p, nil
}

// writeFiles lists what would be shipped, one name a line, as git writes names.
func (a *app) writeFiles(list *workspace.List) error {
	var out strings.Builder
	for _, f := range list.Files {
		out.WriteString(workspace.Quote(f.Path))
		out.WriteByte('\n')
	}
	if _, err := io.WriteString(a.env.Out, out.String()); err != nil {
		return fmt.Errorf("cannot write: %w", err)
	}
	return nil
}

// deliver puts a prepared repository into a running guest, and remembers it.
func (a *app) deliver(ctx context.Context, vm api.VM, guest *agent.Client, p *prepared, flags workspaceFlags) error {
	dir := p.guestDir()
	if exists, err := guestHas(ctx, guest, dir); err != nil {
		return err
	} else if exists {
		return &api.Error{
			Kind:    api.KindExists,
			Message: fmt.Sprintf("cannot put the workspace at %s: VM %q has something there", dir, vm.Name),
			Hint:    fmt.Sprintf("move it away: banger vm exec %s -- mv %s %s.old", vm.Name, dir, dir),
		}
	}
	report, end := a.progress()
	defer end()
	if err := upload(ctx, guest, p, report); err != nil {
		// Half a workspace is worse than none.
		if _, cleanErr := capture(context.WithoutCancel(ctx), guest, []string{"rm", "-rf", dir}, io.Discard); cleanErr != nil {
			a.warn("cannot remove what arrived of the workspace: %v", cleanErr)
		}
		return fmt.Errorf("cannot ship the workspace: %w", err)
	}
	if p.ship.Checkout != "" {
		command := []string{"git", "-C", dir, "checkout", "-q", "-b", flags.branch, p.ship.Checkout, "--"}
		if said, err := capture(ctx, guest, command, io.Discard); err != nil {
			return &api.Error{
				Kind:    api.KindState,
				Message: fmt.Sprintf("cannot start the branch %q at %q in the guest: %s", flags.branch, flags.from, firstOf(said, err.Error())),
				Hint:    "your uncommitted changes do not fit there: commit or stash them first",
			}
		}
	}
	record, err := p.ship.Record(ctx, dir)
	if err != nil {
		return err
	}
	return record.Save(workspace.RecordFile(vm.Dir, p.repo.Name))
}

// upload streams the repository in one pass.
func upload(ctx context.Context, guest *agent.Client, p *prepared, report progress.Func) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var total int64
	for _, f := range p.list.Files {
		if f.Info.Mode().IsRegular() {
			total += f.Info.Size()
		}
	}
	reader, writer := io.Pipe()
	go func() {
		err := p.ship.WriteTar(ctx, writer)
		if err != nil {
			cancel(err)
		}
		writer.CloseWithError(err)
	}()
	text := fmt.Sprintf("copying %s (%d files)", p.repo.Name, len(p.list.Files))
	report(progress.Event{Text: text, Total: total, Bytes: true})
	err := guest.Upload(ctx, guestHome, &countingReader{r: reader, report: report, event: progress.Event{Text: text, Total: total, Bytes: true}})
	// Ends the writer where the guest did not take everything.
	reader.CloseWithError(io.ErrClosedPipe)
	if err != nil && ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// countingReader reports how much went through.
type countingReader struct {
	r      io.Reader
	report progress.Func
	event  progress.Event
}

func (c *countingReader) Read(b []byte) (int, error) {
	n, err := c.r.Read(b)
	c.event.Done += int64(n)
	c.report(c.event)
	return n, err
}

// guestHas reports whether there is something at a path of the guest.
func guestHas(ctx context.Context, guest *agent.Client, name string) (bool, error) {
	process, err := guest.Exec(ctx, wire.ExecRequest{Args: []string{"test", "-e", name}}, agent.Streams{})
	if answered, ok := errors.AsType[*wire.Error](err); ok && answered.Kind == wire.ErrNotFound {
		return false, nil // an image without any tools: the upload will tell
	}
	if err != nil {
		return false, err
	}
	exit, err := process.Wait()
	return exit.Code == 0, err
}

// maxSaid bounds what is kept of a guest's error output.
const maxSaid = 4 << 10

// guestError is a command in the guest that ended with a status.
type guestError struct {
	command string
	status  int
	said    string
}

func (e *guestError) Error() string {
	return fmt.Sprintf("%s in the guest: %s", e.command, firstOf(e.said, fmt.Sprintf("exit status %d", e.status)))
}

// capture runs a command of banger's own in the guest, with its output going to
// out, and returns what it said on stderr.
func capture(ctx context.Context, guest *agent.Client, command []string, out io.Writer) (string, error) {
	said := &limitedBuffer{max: maxSaid}
	process, err := guest.Exec(ctx, wire.ExecRequest{Args: command}, agent.Streams{Stdout: out, Stderr: said})
	if err != nil {
		return "", fmt.Errorf("cannot run %s in the guest: %w", command[0], err)
	}
	exit, err := process.Wait()
	if err != nil {
		return "", err
	}
	text := strings.TrimSpace(said.b.String())
	if exit.Code != 0 {
		return text, &guestError{command: command[0], status: exit.Code, said: text}
	}
	return text, nil
}

// limitedBuffer keeps the beginning of what is written to it.
type limitedBuffer struct {
	b   strings.Builder
	max int
}

func (l *limitedBuffer) Write(b []byte) (int, error) {
	l.b.Write(b[:min(len(b), l.max-l.b.Len())])
	return len(b), nil
}

func firstOf(texts ...string) string {
	for _, t := range texts {
		if t != "" {
			return t
		}
	}
	return ""
}

// records returns the workspaces of a VM by name.
func records(vm api.VM) (map[string]*workspace.Record, error) {
	entries, err := os.ReadDir(path.Dir(workspace.RecordFile(vm.Dir, "x")))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("cannot list the workspaces of VM %q: %w", vm.Name, err)
	}
	found := map[string]*workspace.Record{}
	for _, e := range entries {
		record, err := workspace.Load(workspace.RecordFile(vm.Dir, e.Name()))
		if err != nil {
			return nil, err
		}
		found[e.Name()] = record
	}
	return found, nil
}
