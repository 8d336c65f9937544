package cli

import (
	"context"
	"errors"
	"io"
	"path"
	"slices"
	"strings"

	"banger/internal/agent"
	"banger/internal/api"
)

// toolingScript installs the tools that a repository asks for, with mise. It
// keeps its state beside its log: "running", "done" or "failed".
const toolingScript = `
dir=$1 log=$2 state=$3
mkdir -p "$(dirname "$log")" || exit 1
echo running >"$state"
cd "$dir" || exit 1
export MISE_YES=1 MISE_TRUSTED_CONFIG_PATHS="$dir"
if command -v mise >"$log" 2>&1 && mise install >>"$log" 2>&1; then
	echo done >"$state"
else
	echo failed >"$state"
	exit 1
fi
`

// toolingFiles make a repository one with tools to install.
var toolingFiles = []string{"mise.toml", ".mise.toml", ".tool-versions"}

// tooling is the installation of a repository's tools in a guest.
type tooling struct{ dir, log, state string }

// toolingOf returns nil for a repository that asks for no tools.
func toolingOf(p *prepared) *tooling {
	for _, f := range p.list.Files {
		if slices.Contains(toolingFiles, f.Path) {
			return newTooling(p.guestDir())
		}
	}
	return nil
}

func newTooling(dir string) *tooling {
	log := "/root/.cache/banger/vm-run-tooling-" + path.Base(dir) + ".log"
	return &tooling{dir: dir, log: log, state: strings.TrimSuffix(log, ".log") + ".state"}
}

func (t *tooling) command() []string {
	return []string{"sh", "-c", toolingScript, "banger-tooling", t.dir, t.log, t.state}
}

// start lets it run on in the guest's background.
func (t *tooling) start(ctx context.Context, a *app, guest *agent.Client) {
	// The shell that starts it is gone at once; with every stream closed and
	// a session of its own, nothing waits for it. Its state is there by then.
	const script = `mkdir -p "${0%/*}" && echo running >"$0" && { setsid "$@" </dev/null >/dev/null 2>&1 & }`
	command := append([]string{"sh", "-c", script, t.state}, t.command()...)
	if _, err := capture(ctx, guest, command, io.Discard); err != nil {
		a.warn("cannot install the repository's tools: %v", err)
		return
	}
	a.note("installing the repository's tools in the background; log: %s in the guest", t.log)
}

// run waits for it, and reports whether the tools are there. That they are not
// is a warning: the command may do without.
func (t *tooling) run(ctx context.Context, a *app, vm api.VM, guest *agent.Client) (bool, error) {
	report, end := a.progress()
	defer end()
	report.Step("installing the repository's tools")
	_, err := capture(ctx, guest, t.command(), io.Discard)
	end()
	if ctx.Err() != nil {
		return false, context.Cause(ctx)
	}
	if err != nil {
		a.warn("the repository's tools could not be installed: see 'banger vm exec %s -- cat %s'", vm.Name, t.log)
		return false, nil
	}
	return true, nil
}

// look is the state as it is now: "running", "done", "failed", or "" where no
// tools were asked for.
func (t *tooling) look(ctx context.Context, guest *agent.Client) (string, error) {
	out := &limitedBuffer{max: 64}
	_, err := capture(ctx, guest, []string{"cat", t.state}, out)
	if _, ok := errors.AsType[*guestError](err); ok {
		return "", nil
	}
	return strings.TrimSpace(out.b.String()), err
}
