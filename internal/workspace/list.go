package workspace

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"
)

// File is one file or symbolic link that is shipped.
type File struct {
	Path string // relative to the root, with slashes, bytes as git has them
	Info fs.FileInfo
}

// List is exactly what would be shipped.
type List struct {
	Files []File
	// Untracked is the number of untracked files that git does not ignore;
	// they are in Files only if that was asked for.
	Untracked int
	// Nested are repositories inside this one that it does not track: never shipped.
	Nested []string

	// index are the paths in the index, shipped or not.
	index []string
}

// entry is one line of "git ls-files --stage": mode, object, stage, path.
type entry struct {
	mode, object, stage, path string
}

// parseStage reads the output of "git ls-files --stage -z".
func parseStage(out []byte) ([]entry, error) {
	var entries []entry
	for _, line := range split(out) {
		head, name, ok := strings.Cut(line, "\t")
		fields := strings.Fields(head)
		if !ok || len(fields) != 3 || name == "" {
			return nil, fmt.Errorf("cannot read git's list of files: %q", line)
		}
		entries = append(entries, entry{mode: fields[0], object: fields[1], stage: fields[2], path: name})
	}
	return entries, nil
}

// List says what would be shipped. Tracked files that were deleted from the
// working tree are not; untracked ones are if asked for.
func (r *Repo) List(ctx context.Context, includeUntracked bool) (*List, error) {
	out, err := r.git.output(ctx, nil, "ls-files", "--stage", "-z")
	if err != nil {
		return nil, err
	}
	entries, err := parseStage(out)
	if err != nil {
		return nil, err
	}
	list := &List{}
	for _, e := range entries {
		if e.mode == "160000" {
			return nil, refuse(r.Root, fmt.Sprintf("it has a submodule, at %q, and submodules are not carried over", e.path), "use a clone without submodules, or remove it from the index")
		}
		// A path in conflict is there once for each side.
		if n := len(list.index); n == 0 || list.index[n-1] != e.path {
			list.index = append(list.index, e.path)
		}
	}
	out, err = r.git.output(ctx, nil, "ls-files", "--others", "--exclude-standard", "-z")
	if err != nil {
		return nil, err
	}
	paths := list.index
	for _, name := range split(out) {
		if strings.HasSuffix(name, "/") {
			list.Nested = append(list.Nested, name)
			continue
		}
		list.Untracked++
		if includeUntracked {
			paths = append(slices.Clip(paths), name)
		}
	}
	if list.Files, err = r.look(ctx, paths); err != nil {
		return nil, err
	}
	return list, nil
}

// look finds the files that are there. What lies behind a symbolic link to a
// directory is not: git does not see it as this path either.
func (r *Repo) look(ctx context.Context, paths []string) ([]File, error) {
	root, err := os.OpenRoot(r.Root)
	if err != nil {
		return nil, fmt.Errorf("cannot open the repository: %w", err)
	}
	defer root.Close()
	plain := map[string]bool{".": true} // directories that are no links
	var isDir func(dir string) (bool, error)
	isDir = func(dir string) (bool, error) {
		if known, ok := plain[dir]; ok {
			return known, nil
		}
		above, err := isDir(path.Dir(dir))
		if err != nil {
			return false, err
		}
		if above {
			info, err := root.Lstat(dir)
			if err != nil && !absent(err) {
				return false, err
			}
			above = err == nil && info.IsDir()
		}
		plain[dir] = above
		return above, nil
	}
	files := make([]File, 0, len(paths))
	for i, name := range paths {
		if i%1000 == 0 && ctx.Err() != nil {
			return nil, ctx.Err()
		}
		ok, err := isDir(path.Dir(name))
		if err != nil {
			return nil, fmt.Errorf("cannot look at %q: %w", name, err)
		}
		if !ok {
			continue
		}
		info, err := root.Lstat(name)
		switch {
		case err != nil && absent(err):
		case err != nil:
			return nil, fmt.Errorf("cannot look at %q: %w", name, err)
		case info.Mode().IsRegular(), info.Mode().Type() == fs.ModeSymlink:
			files = append(files, File{Path: name, Info: info})
		case info.IsDir(): // in the place of a tracked file that is gone
		default:
			return nil, refuse(r.Root, fmt.Sprintf("%q is neither a file nor a symbolic link", name), "")
		}
	}
	return files, nil
}

func absent(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR)
}
