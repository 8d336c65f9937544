package workspace

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// rawAttributes switch off all that git would change in a file's content on
// its way in or out. Of all attribute files this one has the last word
// (gitattributes(5), $GIT_DIR/info/attributes).
const rawAttributes = "* -text -filter -ident -working-tree-encoding\n"

// scratch is a git directory of our own beside the repository's: it borrows
// the repository's objects, works on the same files, and takes every write.
type scratch struct {
	git
	dir string
}

// newScratch makes one in dir, which exists and is empty.
func (r *Repo) newScratch(ctx context.Context, dir string) (*scratch, error) {
	s := &scratch{dir: dir, git: git{dir: r.Root, env: []string{"GIT_DIR=" + dir, "GIT_WORK_TREE=" + r.Root}}}
	objects, err := r.path(ctx, "objects")
	if err != nil {
		return nil, err
	}
	config := "[core]\n\trepositoryFormatVersion = 0\n\tbare = false\n\tsplitIndex = false\n\tuntrackedCache = false\n"
	if r.format != "sha1" {
		config = "[core]\n\trepositoryFormatVersion = 1\n\tbare = false\n[extensions]\n\tobjectFormat = " + r.format + "\n"
	}
	files := map[string]string{
		"HEAD":                    "ref: refs/heads/scratch\n",
		"config":                  config,
		"info/attributes":         rawAttributes,
		"objects/info/alternates": objects + "\n",
	}
	for name, content := range files {
		if err := writeFile(filepath.Join(dir, name), content); err != nil {
			return nil, err
		}
	}
	if err := os.MkdirAll(filepath.Join(dir, "refs"), 0o700); err != nil {
		return nil, fmt.Errorf("cannot prepare the repository's copy: %w", err)
	}
	// Where the host's own history is cut.
	shallow, err := r.path(ctx, "shallow")
	if err != nil {
		return nil, err
	}
	return s, copyFile(filepath.Join(dir, "shallow"), shallow)
}

// path is where git keeps something of the repository, worktrees included.
func (r *Repo) path(ctx context.Context, name string) (string, error) {
	p, err := r.git.line(ctx, "rev-parse", "--git-path", name)
	if err != nil {
		return "", err
	}
	if !filepath.IsAbs(p) {
		p = filepath.Join(r.Root, p)
	}
	return p, nil
}

// takeIndex copies the repository's index, in its plainest form: in one file,
// every entry in full, without the extensions that are about this host.
func (s *scratch) takeIndex(ctx context.Context, r *Repo) error {
	index, err := r.path(ctx, "index")
	if err != nil {
		return err
	}
	if err := copyFile(filepath.Join(s.dir, "index"), index); err != nil {
		return err
	}
	shared, err := filepath.Glob(filepath.Join(filepath.Dir(index), "sharedindex.*"))
	if err != nil {
		return fmt.Errorf("cannot look for shared indexes: %w", err)
	}
	for _, name := range shared {
		if err := copyFile(filepath.Join(s.dir, filepath.Base(name)), name); err != nil {
			return err
		}
	}
	_, err = s.output(ctx, nil, "update-index", "--no-split-index", "--no-untracked-cache")
	return err
}

// base makes the tree of exactly the listed files with their content as it is,
// in an index of its own that starts as the repository's, so that git needs to
// read only what changed. It returns the tree's id.
func (s *scratch) base(ctx context.Context, r *Repo, list *List) (string, error) {
	index := filepath.Join(s.dir, "base-index")
	if err := copyFile(index, filepath.Join(s.dir, "index")); err != nil {
		return "", err
	}
	g := s.git
	g.env = append(slices.Clip(g.env), "GIT_INDEX_FILE="+index)
	shipped := make(map[string]bool, len(list.Files))
	paths := make([]string, 0, len(list.Files))
	for _, f := range list.Files {
		shipped[f.Path] = true
		paths = append(paths, f.Path)
	}
	converted, err := r.converted(ctx, list.index)
	if err != nil {
		return "", err
	}
	var drop []string
	for _, name := range list.index {
		if !shipped[name] || converted[name] {
			drop = append(drop, name)
		}
	}
	if _, err := g.output(ctx, join(drop), "update-index", "-z", "--force-remove", "--stdin"); err != nil {
		return "", err
	}
	// A file where a directory was, or the reverse, needs --replace.
	if _, err := g.output(ctx, join(paths), "update-index", "-z", "--add", "--replace", "--stdin"); err != nil {
		return "", err
	}
	if err := s.forget(ctx, g); err != nil {
		return "", err
	}
	return g.line(ctx, "write-tree")
}

// forget makes git in the guest read the files that are modified: with the
// coarse times that the guest compares, one of the same size and second would
// pass for unmodified. base is git with the index of what is shipped.
func (s *scratch) forget(ctx context.Context, base git) error {
	out, err := base.output(ctx, nil, "ls-files", "--stage", "-z")
	if err != nil {
		return err
	}
	shipped, err := parseStage(out)
	if err != nil {
		return err
	}
	objects := make(map[string]string, len(shipped))
	for _, e := range shipped {
		objects[e.path] = e.object
	}
	if out, err = s.output(ctx, nil, "ls-files", "--stage", "-z"); err != nil {
		return err
	}
	entries, err := parseStage(out)
	if err != nil {
		return err
	}
	empty, err := s.output(ctx, strings.NewReader(""), "hash-object", "--stdin")
	if err != nil {
		return err
	}
	var lines []string
	for _, e := range entries {
		now, ok := objects[e.path]
		// An entry of nothing may be one of "git add --intent-to-add", which
		// this would make a real one; a size of zero gives itself away.
		if ok && now != e.object && e.stage == "0" && e.object != strings.TrimSpace(string(empty)) {
			lines = append(lines, fmt.Sprintf("%s %s %s\t%s", e.mode, e.object, e.stage, e.path))
		}
	}
	_, err = s.output(ctx, join(lines), "update-index", "-z", "--index-info")
	return err
}

// converted are the tracked paths whose content in the working tree is not what
// git has in its objects: line ends, filters such as Git LFS, encodings.
func (r *Repo) converted(ctx context.Context, paths []string) (map[string]bool, error) {
	crlf, err := r.git.config(ctx, "core.autocrlf")
	if err != nil {
		return nil, err
	}
	all := crlf == "true" || crlf == "input"
	out, err := r.git.output(ctx, join(paths), "check-attr", "-z", "--stdin", "text", "eol", "filter", "ident", "working-tree-encoding")
	if err != nil {
		return nil, err
	}
	converted := map[string]bool{}
	fields := split(out) // path, attribute, value; and so on
	for i := 0; i+2 < len(fields); i += 3 {
		if value := fields[i+2]; value != "unspecified" && value != "unset" || all {
			converted[fields[i]] = true
		}
	}
	return converted, nil
}

func writeFile(name, content string) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return fmt.Errorf("cannot prepare the repository's copy: %w", err)
	}
	if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
		return fmt.Errorf("cannot prepare the repository's copy: %w", err)
	}
	return nil
}

// copyFile copies a file that may not be there, with its time: for git, what an
// index says of files that are as young as itself is not to be trusted.
func copyFile(to, from string) error {
	in, err := os.Open(from)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot copy from the repository: %w", err)
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("cannot copy from the repository: %w", err)
	}
	if _, err := io.Copy(out, in); err != nil {
		out.Close()
		return fmt.Errorf("cannot copy from the repository: %w", err)
	}
	info, err := in.Stat()
	if err = errors.Join(err, out.Close()); err != nil {
		return fmt.Errorf("cannot copy from the repository: %w", err)
	}
	if err := os.Chtimes(to, time.Time{}, info.ModTime()); err != nil {
		return fmt.Errorf("cannot copy from the repository: %w", err)
	}
	return nil
}

// quoteConfig is a value as git's configuration files want it.
func quoteConfig(value string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`, "\t", `\t`, "\b", `\b`).Replace(value) + `"`
}
