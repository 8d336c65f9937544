package workspace

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"banger/internal/api"
)

// guestScript compares a directory in the guest with what was shipped.
//
//go:embed export.sh
var guestScript string

// Report chooses what an export says.
type Report string

// Reports.
const (
	Patch Report = "patch"       // a patch for "git apply", binary files included
	Names Report = "name-status" // a line for each file: A, M, D or T, a tab, the name
)

// ExportCommand is what has to be run in the guest; its output is the report.
// It changes nothing there: git works in a directory of its own, with its own
// index, and only borrows the repository's objects.
func (r *Record) ExportCommand(report Report) []string {
	return []string{"sh", "-c", guestScript, "banger-export", r.Guest, r.Base, r.Format, string(report)}
}

// Apply puts a patch from the guest into the host's repository. Files that are
// no longer what was shipped are conflicts: it then names them, as an
// [api.Error], and changes nothing. A patch is outside input: it can not reach
// anything but the repository's own files. It returns the paths changed.
func (r *Record) Apply(ctx context.Context, patch []byte) (_ []string, err error) {
	if len(bytes.TrimSpace(patch)) == 0 {
		return nil, nil
	}
	repo, err := Open(ctx, r.Root)
	if err != nil {
		return nil, err
	}
	if repo.Root != r.Root || repo.format != r.Format {
		return nil, &api.Error{Kind: api.KindState, Message: fmt.Sprintf("cannot apply to %q: it is not the repository that was shipped any more", r.Root)}
	}
	temp, err := os.MkdirTemp("", "banger-workspace-")
	if err != nil {
		return nil, fmt.Errorf("cannot make a temporary directory: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(temp)) }()
	s, err := repo.newScratch(ctx, temp)
	if err != nil {
		return nil, err
	}
	paths, err := s.touched(ctx, patch)
	if err != nil {
		return nil, err
	}
	conflicts, err := r.conflicts(ctx, s, paths)
	if err != nil {
		return nil, err
	}
	if len(conflicts) > 0 {
		return nil, &api.Error{
			Kind:    api.KindState,
			Message: fmt.Sprintf("cannot apply what the guest changed: changed on the host since it was shipped: %s; nothing was changed", strings.Join(conflicts, ", ")),
			Hint:    "export without --apply, and merge by hand: git apply --3way",
		}
	}
	if err := r.rehearse(ctx, s, paths, patch); err != nil {
		return nil, &api.Error{Kind: api.KindInternal, Message: fmt.Sprintf("cannot apply what the guest sent: %v; nothing was changed", err)}
	}
	if _, err := s.output(ctx, bytes.NewReader(patch), "apply", "--whitespace=nowarn", "-"); err != nil {
		return nil, &api.Error{
			Kind: api.KindInternal, Message: fmt.Sprintf("cannot apply all that the guest changed: %v", err),
			Hint: "a part of it may be there: git -C " + r.Root + " status",
		}
	}
	return paths, nil
}

// rehearse applies a patch to an index of the files it is about, which are what
// was shipped. git writes one file after another, and finds only then that one
// cannot be a directory as well.
func (r *Record) rehearse(ctx context.Context, s *scratch, paths []string, patch []byte) error {
	var lines []string
	for _, name := range paths {
		if shipped, ok := r.shipped[name]; ok {
			lines = append(lines, fmt.Sprintf("%s %s\t%s", shipped.mode, shipped.object, name))
		}
	}
	if _, err := s.output(ctx, join(lines), "update-index", "-z", "--index-info"); err != nil {
		return err
	}
	for _, how := range []string{"--check", "--cached"} {
		if _, err := s.output(ctx, bytes.NewReader(patch), "apply", "--whitespace=nowarn", how, "-"); err != nil {
			return err
		}
	}
	return nil
}

// touched lists the files of a patch and refuses what no export of ours has.
func (s *scratch) touched(ctx context.Context, patch []byte) ([]string, error) {
	bad := func(why string) error {
		return &api.Error{Kind: api.KindInternal, Message: "cannot apply what the guest sent: " + why + "; nothing was changed"}
	}
	out, err := s.output(ctx, bytes.NewReader(patch), "apply", "--numstat", "-z", "-")
	if err != nil {
		return nil, bad(err.Error())
	}
	paths, err := parseNumstat(out)
	if err != nil {
		return nil, bad(err.Error())
	}
	summary, err := s.output(ctx, bytes.NewReader(patch), "apply", "--summary", "-")
	if err != nil {
		return nil, bad(err.Error())
	}
	// "create mode 160000 path": a repository inside the repository.
	if bytes.Contains(summary, []byte(" mode 160000 ")) || bytes.Contains(summary, []byte("=> 160000")) {
		return nil, bad("it has a repository inside the repository; remove that in the guest, or its .git")
	}
	for line := range bytes.Lines(summary) {
		// Where such a file comes from is not in the list of files.
		if bytes.HasPrefix(line, []byte(" rename ")) || bytes.HasPrefix(line, []byte(" copy ")) {
			return nil, bad("it renames or copies a file")
		}
	}
	return paths, nil
}

// parseNumstat reads "git apply --numstat -z" and refuses every path that is
// not plainly below the root and outside of .git.
func parseNumstat(out []byte) ([]string, error) {
	var paths []string
	for _, line := range split(out) {
		fields := strings.SplitN(line, "\t", 3)
		if len(fields) != 3 || fields[2] == "" {
			return nil, fmt.Errorf("its list of files is not readable: %q", line)
		}
		name := fields[2]
		if !filepath.IsLocal(name) || path.Clean(name) != name {
			return nil, fmt.Errorf("%q is outside of the repository", name)
		}
		for part := range strings.SplitSeq(name, "/") {
			if isDotGit(part) {
				return nil, fmt.Errorf("%q belongs to git itself", name)
			}
		}
		paths = append(paths, name)
	}
	slices.Sort(paths)
	return slices.Compact(paths), nil
}

// isDotGit says whether some file system takes the name for ".git".
func isDotGit(name string) bool {
	folded := strings.ToLower(strings.TrimRight(name, ". "))
	return folded == ".git" || strings.HasPrefix(folded, "git~") || strings.HasPrefix(folded, ".git:")
}

// conflicts are the paths whose state on the host is not what was shipped.
func (r *Record) conflicts(ctx context.Context, s *scratch, paths []string) ([]string, error) {
	root, err := os.OpenRoot(r.Root)
	if err != nil {
		return nil, fmt.Errorf("cannot open the repository: %w", err)
	}
	defer root.Close()
	var conflicts []string
	for _, name := range paths {
		now, err := s.state(ctx, root, name)
		if err != nil {
			return nil, err
		}
		if now != r.shipped[name] {
			conflicts = append(conflicts, name)
		}
	}
	return conflicts, nil
}

// state looks at one file of the host, of which the scratch keeps a copy.
func (s *scratch) state(ctx context.Context, root *os.Root, name string) (state, error) {
	info, err := root.Lstat(name)
	if err != nil && absent(err) {
		return state{}, nil
	}
	if err != nil {
		return state{}, fmt.Errorf("cannot look at %q: %w", name, err)
	}
	switch {
	case info.Mode().Type() == fs.ModeSymlink:
		target, err := root.Readlink(name)
		if err != nil {
			return state{}, fmt.Errorf("cannot look at %q: %w", name, err)
		}
		object, err := s.output(ctx, strings.NewReader(target), "hash-object", "-w", "--stdin")
		return state{mode: "120000", object: strings.TrimSpace(string(object))}, err
	case info.Mode().IsRegular():
		f, err := root.Open(name)
		if err != nil {
			return state{}, fmt.Errorf("cannot look at %q: %w", name, err)
		}
		defer f.Close()
		object, err := s.output(ctx, f, "hash-object", "-w", "--stdin")
		mode := "100644"
		if info.Mode()&0o100 != 0 {
			mode = "100755"
		}
		return state{mode: mode, object: strings.TrimSpace(string(object))}, err
	case info.IsDir():
		// A directory in the place of a file: for git the file is not there,
		// unless something is in it that would be in the way.
		return state{}, nil
	default:
		return state{}, &api.Error{Kind: api.KindState, Message: fmt.Sprintf("cannot apply to %q: it is neither a file nor a symbolic link", name)}
	}
}

// Exit statuses by which the guest's script says that there is no git, no
// repository any more, or no base in it.
const (
	ExitNoGit       = 91
	ExitNoWorkspace = 92
	ExitNoBase      = 93
)

// ExportError explains an exit status of the guest's script.
func (r *Record) ExportError(status int, stderr string) error {
	switch status {
	case 0:
		return nil
	case ExitNoGit:
		return errors.New("the guest has no git")
	case ExitNoWorkspace:
		return fmt.Errorf("the guest has no repository at %s any more", r.Guest)
	case ExitNoBase:
		return fmt.Errorf("the guest's repository at %s no longer has what was shipped", r.Guest)
	default:
		return fmt.Errorf("the guest could not compare %s: %s", r.Guest, strings.TrimSpace(stderr))
	}
}
