// Package workspace is what banger takes from a git repository into a guest,
// and what it brings back.
//
// Shipped are the tracked files as they are in the working tree, the index, and
// a history of limited depth. What was shipped is also kept as a git tree, the
// base: an export is the difference between the base and what the guest has
// now, and is put back into the host's files only where those are still the
// base's. git is run as a program: worktrees, sparse checkouts, alternates and
// the formats to come are its business.
package workspace

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"banger/internal/api"
)

// Repo is a git repository with a working tree on the host.
type Repo struct {
	// Root is the top of the working tree, Name its last element.
	Root, Name string
	// Head is the commit that is checked out, "" before the first one.
	Head string
	// Branch is what is checked out, "" if it is no branch.
	Branch string

	git    git
	format string // object format: sha1 or sha256
}

// Open finds the repository that path is in. A path that is in none, a bare
// repository and one with submodules are refused with an [api.Error].
func Open(ctx context.Context, path string) (*Repo, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, refuse(path, pathError(err), "give the directory of a git repository; a command goes after --")
	}
	if !info.IsDir() {
		return nil, refuse(path, "it is not a directory", "give the directory of a git repository")
	}
	if _, err := exec.LookPath("git"); err != nil {
		// Nothing that the user has asked for is wrong.
		return nil, &api.Error{
			Kind: api.KindState, Message: fmt.Sprintf("cannot use %q as a workspace: git is not installed", path),
			Hint: "install it: sudo apt-get install git",
		}
	}
	absolute, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("cannot find the absolute path of %q: %w", path, err)
	}
	g := git{dir: absolute}
	root, err := g.line(ctx, "rev-parse", "--show-toplevel")
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		if bare, bareErr := g.line(ctx, "rev-parse", "--is-bare-repository"); bareErr == nil && bare == "true" {
			return nil, refuse(path, "it is a bare git repository, without files to work on", "give a clone of it")
		}
		return nil, refuseGit(path, absolute, err)
	}
	r := &Repo{Root: root, Name: filepath.Base(root), git: git{dir: root}}
	if r.Name == "/" || r.Name == "." {
		return nil, refuse(path, "a repository at / has no name", "")
	}
	if r.format, err = r.git.line(ctx, "rev-parse", "--show-object-format"); err != nil {
		return nil, err
	}
	// Both fail, and say nothing else, where there is no commit or no branch.
	r.Head, _ = r.git.line(ctx, "rev-parse", "--verify", "--quiet", "HEAD^{commit}")
	r.Branch, _ = r.git.line(ctx, "symbolic-ref", "--quiet", "--short", "HEAD")
	return r, ctx.Err()
}

// refuseGit says why git finds no repository.
func refuseGit(path, absolute string, err error) error {
	var said string
	if failed, ok := errors.AsType[*gitError](err); ok {
		said = failed.stderr
	}
	switch {
	case strings.Contains(said, "fatal: not a git repository (or any"):
		return refuse(path, "it is not in a git repository", "run git init in it and git add what shall be shipped")
	case strings.Contains(said, "dubious ownership"):
		// The command is git's: it knows the repository's top.
		_, command, _ := strings.Cut(said, "git config ")
		return refuse(path, "it belongs to another user, and git refuses it", "if you trust it: git config "+strings.TrimSpace(command))
	}
	// Nothing that the user has asked for is wrong.
	return &api.Error{
		Kind: api.KindState, Message: fmt.Sprintf("cannot use %q as a workspace: %s", path, strings.Join(strings.Fields(err.Error()), " ")),
		Hint: "see what git has to say: git -C " + absolute + " status",
	}
}

func refuse(path, why, hint string) error {
	return &api.Error{Kind: api.KindUsage, Message: fmt.Sprintf("cannot use %q as a workspace: %s", path, why), Hint: hint}
}

// pathError is the cause of an error of a path, without the path.
func pathError(err error) string {
	if e, ok := errors.AsType[*os.PathError](err); ok {
		return e.Err.Error()
	}
	return err.Error()
}
