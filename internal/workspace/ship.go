package workspace

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"banger/internal/api"
)

// depth is the number of commits that the guest gets: enough for a look back,
// little enough that a long history costs nothing.
const depth = 50

// Options of [Repo.Ship].
type Options struct {
	// Branch is created in the guest's checkout, at From or at Head.
	Branch, From string
	// Temp is a directory for temporary files, the system's own if empty.
	Temp string
}

// Shipment is a repository made ready for a guest. [Shipment.WriteTar] sends
// it; Close removes its temporary files.
type Shipment struct {
	Repo *Repo
	List *List
	// Base is the id of the tree of what is shipped.
	Base string
	// Checkout is the commit that the guest must still check out into the
	// new branch, "" if what is shipped is right as it is.
	Checkout string
	// OriginSecret says that a password was taken out of the origin's URL.
	OriginSecret bool

	branch string
	temp   string
	dotGit string
	store  *scratch
}

// Close removes the temporary files.
func (s *Shipment) Close() error { return os.RemoveAll(s.temp) }

// Ship makes a list of files ready, with history. Nothing in the repository
// is changed.
func (r *Repo) Ship(ctx context.Context, list *List, opts Options) (_ *Shipment, err error) {
	temp, err := os.MkdirTemp(opts.Temp, "banger-workspace-")
	if err != nil {
		return nil, fmt.Errorf("cannot make a temporary directory: %w", err)
	}
	s := &Shipment{Repo: r, List: list, temp: temp, dotGit: filepath.Join(temp, "git"), branch: r.Branch}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	from, err := r.start(ctx, opts)
	if err != nil {
		return nil, err
	}
	if opts.Branch != "" {
		s.branch = opts.Branch
		if from != r.Head {
			s.Checkout, s.branch = from, r.Branch
		}
	}
	if s.store, err = r.newScratch(ctx, filepath.Join(temp, "scratch")); err != nil {
		return nil, err
	}
	if err := s.store.takeIndex(ctx, r); err != nil {
		return nil, err
	}
	if s.Base, err = s.store.base(ctx, r, list); err != nil {
		return nil, err
	}
	refs, err := s.refs(ctx)
	if err != nil {
		return nil, err
	}
	shallow, err := s.pack(ctx, refs, from)
	if err != nil {
		return nil, err
	}
	return s, s.assemble(ctx, refs, shallow)
}

// start checks the wished branch and finds the commit it begins at.
func (r *Repo) start(ctx context.Context, opts Options) (string, error) {
	if opts.Branch == "" {
		if opts.From != "" {
			return "", &api.Error{Kind: api.KindUsage, Message: "cannot use --from without --branch"}
		}
		return r.Head, nil
	}
	if _, err := r.git.output(ctx, nil, "check-ref-format", "--branch", opts.Branch); err != nil {
		return "", &api.Error{Kind: api.KindUsage, Message: fmt.Sprintf("cannot create the branch %q: it is no valid name for a branch", opts.Branch)}
	}
	if _, err := r.git.output(ctx, nil, "rev-parse", "--verify", "--quiet", "refs/heads/"+opts.Branch); err == nil {
		return "", &api.Error{Kind: api.KindUsage, Message: fmt.Sprintf("cannot create the branch %q: the repository has one of this name", opts.Branch), Hint: "take another name, or check it out on the host and leave out --branch"}
	}
	if opts.From == "" {
		return r.Head, nil
	}
	from, err := r.git.line(ctx, "rev-parse", "--verify", "--quiet", "--end-of-options", opts.From+"^{commit}")
	if err != nil {
		return "", &api.Error{Kind: api.KindUsage, Message: fmt.Sprintf("cannot start the branch %q at %q: there is no such commit", opts.Branch, opts.From)}
	}
	return from, nil
}

// refs are the references that the guest gets, by name.
func (s *Shipment) refs(ctx context.Context) (map[string]string, error) {
	refs := map[string]string{"refs/banger/base": s.Base}
	if s.Repo.Head == "" {
		return refs, nil
	}
	if s.branch != "" {
		refs["refs/heads/"+s.branch] = s.Repo.Head
	}
	// What the guest pushes to and compares with, where the host knows it.
	if s.Repo.Branch != "" {
		name, err := s.Repo.git.line(ctx, "rev-parse", "--symbolic-full-name", "--verify", "--quiet", s.Repo.Branch+"@{upstream}")
		if err == nil && strings.HasPrefix(name, "refs/remotes/origin/") {
			if id, err := s.Repo.git.line(ctx, "rev-parse", "--verify", "--quiet", name+"^{commit}"); err == nil {
				refs[name] = id
			}
		}
	}
	return refs, ctx.Err()
}

// pack collects the objects into one pack, and returns the commits whose
// parents are left out.
func (s *Shipment) pack(ctx context.Context, refs map[string]string, from string) ([]string, error) {
	var tips []string
	for name, id := range refs {
		if name != "refs/banger/base" {
			tips = append(tips, id)
		}
	}
	for _, id := range []string{s.Repo.Head, from} {
		if id != "" {
			tips = append(tips, id)
		}
	}
	partial, err := s.Repo.git.output(ctx, nil, "config", "--get-regexp", `^(extensions\.partialclone|remote\..*\.promisor)$`)
	if failed, ok := errors.AsType[*gitError](err); err != nil && (!ok || failed.status() != 1) {
		return nil, err
	}
	limit, missing := depth, "--missing=error"
	if len(partial) > 0 {
		// The objects of older commits are not here, and are not fetched for this.
		limit, missing = 1, "--missing=allow-any"
	}
	var shallow []string
	var input strings.Builder
	if len(tips) > 0 {
		args := append([]string{"rev-list", "--parents", "--topo-order", "--max-count=" + strconv.Itoa(limit)}, tips...)
		out, err := s.store.output(ctx, nil, args...)
		if err != nil {
			return nil, err
		}
		// A tip that the limit left out is cut as well.
		if shallow, err = s.cuts(ctx, string(out), tips); err != nil {
			return nil, err
		}
	}
	for _, id := range shallow {
		fmt.Fprintf(&input, "--shallow %s\n", id)
	}
	for _, id := range tips {
		fmt.Fprintln(&input, id)
	}
	fmt.Fprintln(&input, s.Base)
	staged, err := s.staged(ctx)
	if err != nil {
		return nil, err
	}
	for _, id := range staged {
		fmt.Fprintln(&input, id)
	}
	packs := filepath.Join(s.dotGit, "objects", "pack")
	if err := os.MkdirAll(packs, 0o700); err != nil {
		return nil, fmt.Errorf("cannot prepare the repository's copy: %w", err)
	}
	_, err = s.store.output(ctx, strings.NewReader(input.String()), "pack-objects", "--revs", "--quiet", missing, filepath.Join(packs, "pack"))
	return shallow, err
}

// cuts reads "rev-list --parents" and finds where the history ends.
func (s *Shipment) cuts(ctx context.Context, out string, tips []string) ([]string, error) {
	parents := map[string][]string{}
	var order []string
	for line := range strings.Lines(out) {
		ids := strings.Fields(line)
		if len(ids) > 0 {
			parents[ids[0]] = ids[1:]
			order = append(order, ids[0])
		}
	}
	for _, id := range tips {
		if _, ok := parents[id]; !ok {
			parents[id] = []string{""}
			order = append(order, id)
		}
	}
	var cut []string
	for _, id := range order {
		for _, p := range parents[id] {
			if _, ok := parents[p]; !ok {
				cut = append(cut, id)
				break
			}
		}
	}
	// A commit at which the host's own history is cut has no parents here.
	host, err := os.ReadFile(filepath.Join(s.store.dir, "shallow"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("cannot read where the history is cut: %w", err)
	}
	for id := range strings.FieldsSeq(string(host)) {
		if ps, ok := parents[id]; ok && len(ps) == 0 {
			cut = append(cut, id)
		}
	}
	return cut, ctx.Err()
}

// staged are objects that the index needs: its tree, or its files where there
// is a conflict and so no tree.
func (s *Shipment) staged(ctx context.Context) ([]string, error) {
	if tree, err := s.store.line(ctx, "write-tree"); err == nil {
		return []string{tree}, nil
	}
	out, err := s.store.output(ctx, nil, "ls-files", "--stage", "-z")
	if err != nil {
		return nil, err
	}
	entries, err := parseStage(out)
	if err != nil {
		return nil, err
	}
	ids := make([]string, 0, len(entries))
	for _, e := range entries {
		ids = append(ids, e.object)
	}
	return ids, nil
}

// assemble writes the guest's .git beside its objects.
func (s *Shipment) assemble(ctx context.Context, refs map[string]string, shallow []string) error {
	config, err := s.config(ctx)
	if err != nil {
		return err
	}
	head := s.Repo.Head + "\n"
	if s.branch != "" {
		head = "ref: refs/heads/" + s.branch + "\n"
	}
	var packed strings.Builder
	for name, id := range refs {
		fmt.Fprintf(&packed, "%s %s\n", id, name)
	}
	files := map[string]string{"HEAD": head, "config": config, "packed-refs": packed.String()}
	if len(shallow) > 0 {
		files["shallow"] = strings.Join(shallow, "\n") + "\n"
	}
	for name, content := range files {
		if err := writeFile(filepath.Join(s.dotGit, name), content); err != nil {
			return err
		}
	}
	for _, dir := range []string{"refs", "info", "objects/info"} {
		if err := os.MkdirAll(filepath.Join(s.dotGit, dir), 0o700); err != nil {
			return fmt.Errorf("cannot prepare the repository's copy: %w", err)
		}
	}
	for _, name := range []string{"info/exclude", "info/sparse-checkout"} {
		from, err := s.Repo.path(ctx, name)
		if err != nil {
			return err
		}
		if err := copyFile(filepath.Join(s.dotGit, name), from); err != nil {
			return err
		}
	}
	return copyFile(filepath.Join(s.dotGit, "index"), filepath.Join(s.store.dir, "index"))
}

// config is the guest's .git/config: what makes git there behave as here, the
// origin, and who commits.
func (s *Shipment) config(ctx context.Context) (string, error) {
	var b strings.Builder
	b.WriteString("[core]\n\tbare = false\n\tfileMode = true\n\tlogAllRefUpdates = true\n")
	// Inodes and fine times are other ones in the guest; what is left
	// spares git from reading every file again.
	b.WriteString("\tcheckStat = minimal\n\ttrustCTime = false\n")
	if s.Repo.format == "sha1" {
		b.WriteString("\trepositoryFormatVersion = 0\n")
	} else {
		fmt.Fprintf(&b, "\trepositoryFormatVersion = 1\n[extensions]\n\tobjectFormat = %s\n", s.Repo.format)
	}
	values := map[string]string{}
	for _, key := range []string{
		"core.autocrlf", "core.eol", "core.sparseCheckout", "core.sparseCheckoutCone", "user.name", "user.email", "remote.origin.url",
	} {
		value, err := s.Repo.git.config(ctx, key)
		if err != nil {
			return "", err
		}
		values[key] = value
	}
	write := func(section string, keys ...string) {
		header := false
		for _, key := range keys {
			if value := values[key]; value != "" {
				if !header {
					fmt.Fprintf(&b, "[%s]\n", section)
					header = true
				}
				fmt.Fprintf(&b, "\t%s = %s\n", key[strings.LastIndex(key, ".")+1:], quoteConfig(value))
			}
		}
	}
	write("core", "core.autocrlf", "core.eol", "core.sparseCheckout", "core.sparseCheckoutCone")
	write("user", "user.name", "user.email")
	if origin := values["remote.origin.url"]; origin != "" {
		clean, secret := withoutPassword(origin)
		s.OriginSecret = secret
		fmt.Fprintf(&b, "[remote \"origin\"]\n\turl = %s\n\tfetch = +refs/heads/*:refs/remotes/origin/*\n", quoteConfig(clean))
		if s.Repo.Branch != "" {
			merge, err := s.Repo.git.config(ctx, "branch."+s.Repo.Branch+".merge")
			if err != nil {
				return "", err
			}
			if merge != "" {
				fmt.Fprintf(&b, "[branch %s]\n\tremote = origin\n\tmerge = %s\n", quoteConfig(s.Repo.Branch), quoteConfig(merge))
			}
		}
	}
	return b.String(), nil
}

// withoutPassword takes a password or token out of a URL: the guest has no
// business with it.
func withoutPassword(origin string) (string, bool) {
	u, err := url.Parse(origin)
	if err != nil || u.User == nil || u.Scheme != "http" && u.Scheme != "https" {
		return origin, false
	}
	u.User = nil
	return u.String(), true
}
