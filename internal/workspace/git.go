package workspace

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"

	"banger/internal/excerpt"
)

// git runs git on one repository without ever asking, locking, or running what
// the repository configures to be run.
type git struct {
	dir string   // where it runs
	env []string // added to the environment
}

// local are the variables that bind git to a repository ("git rev-parse
// --local-env-vars"): set when banger runs from a hook, and never meant for us.
var local = []string{
	"GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_COMMON_DIR", "GIT_CONFIG", "GIT_CONFIG_COUNT", "GIT_CONFIG_PARAMETERS",
	"GIT_DIR", "GIT_GRAFT_FILE", "GIT_IMPLICIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_INTERNAL_SUPER_PREFIX", "GIT_NO_REPLACE_OBJECTS",
	"GIT_OBJECT_DIRECTORY", "GIT_PREFIX", "GIT_REPLACE_REF_BASE", "GIT_SHALLOW_FILE", "GIT_WORK_TREE",
}

func (g git) command(ctx context.Context, args ...string) *exec.Cmd {
	full := append([]string{"-c", "core.hooksPath=/dev/null", "-c", "core.fsmonitor=false", "-c", "core.quotePath=false"}, args...)
	cmd := exec.CommandContext(ctx, "git", full...)
	cmd.Dir = g.dir
	for _, kv := range os.Environ() {
		if name, _, _ := strings.Cut(kv, "="); !slices.Contains(local, name) {
			cmd.Env = append(cmd.Env, kv)
		}
	}
	cmd.Env = append(cmd.Env, "GIT_TERMINAL_PROMPT=0", "GIT_OPTIONAL_LOCKS=0", "LC_ALL=C")
	cmd.Env = append(cmd.Env, g.env...)
	return cmd
}

// gitError is a git that failed, with what it said.
type gitError struct {
	args   []string
	stderr string
	err    error
}

func (e *gitError) Error() string {
	said := strings.TrimSpace(e.stderr)
	if said == "" {
		said = e.err.Error()
	}
	return fmt.Sprintf("git %s: %s", e.args[0], said)
}

func (e *gitError) Unwrap() error { return e.err }

// status is the exit status git ended with, or -1 if it did not get that far.
func (e *gitError) status() int {
	if exit, ok := errors.AsType[*exec.ExitError](e.err); ok {
		return exit.ExitCode()
	}
	return -1
}

// output runs git with stdin and returns what it prints.
func (g git) output(ctx context.Context, stdin io.Reader, args ...string) ([]byte, error) {
	cmd := g.command(ctx, args...)
	var stdout bytes.Buffer
	var said excerpt.Writer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &stdout, &said
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		return nil, &gitError{args: args, stderr: said.String(), err: err}
	}
	return stdout.Bytes(), nil
}

// line runs git and returns its output without the final newline.
func (g git) line(ctx context.Context, args ...string) (string, error) {
	out, err := g.output(ctx, nil, args...)
	return strings.TrimSuffix(string(out), "\n"), err
}

// config is the effective value of a key, "" if it is not set.
func (g git) config(ctx context.Context, key string) (string, error) {
	value, err := g.line(ctx, "config", "--get", key)
	if failed, ok := errors.AsType[*gitError](err); ok && failed.status() == 1 {
		return "", nil
	}
	return value, err
}

// split cuts NUL-terminated output into its parts.
func split(out []byte) []string {
	if len(out) == 0 {
		return nil
	}
	return strings.Split(strings.TrimSuffix(string(out), "\x00"), "\x00")
}

// join is the reverse of split, for git's -z --stdin.
func join(paths []string) io.Reader {
	var b bytes.Buffer
	for _, p := range paths {
		b.WriteString(p)
		b.WriteByte(0)
	}
	return &b
}
