package cli

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"banger/internal/progress"
)

// download copies source out of the guest. It is absolute.
func (c *copier) download(ctx context.Context, source, target string) error {
	tree, err := c.open(ctx, path.Clean(source))
	if err != nil {
		return fmt.Errorf("cannot copy %q from the guest: %w", source, err)
	}
	defer tree.Close()
	u := unpacker{report: c.report, base: path.Base(path.Clean(source)), contents: isContents(source), text: "copying " + source}
	err = u.run(ctx, tree, target)
	if u.root != nil {
		err = errors.Join(err, u.root.Close())
	}
	if err != nil {
		return fmt.Errorf("cannot copy %q from the guest to %q: %w", source, target, err)
	}
	return nil
}

// unpacker writes a tar stream of one file or directory below target. The
// stream comes from a guest and is not trusted: nothing is written outside of
// what the user named, through links either.
type unpacker struct {
	report progress.Func
	// base is the name that the source has for the user, contents that what
	// is in it was asked for.
	base     string
	contents bool
	text     string

	// root is where the entries go, top the name of the first, below which
	// all others are, and file the name that a single file gets.
	root *os.Root
	top  string
	file string
	// dirs get their modes at the end: one may not be writable.
	dirs []dirEntry
	// known are the names in dirs: a guest may repeat one without end.
	known map[string]bool
}

// dirEntry is what is set on a directory at the end.
type dirEntry struct {
	name string
	mode fs.FileMode
	time time.Time
}

func (u *unpacker) run(ctx context.Context, tree *guestTree, target string) error {
	if err := u.begin(tree.first, target); err != nil {
		return err
	}
	for header := tree.first; ; {
		if err := u.entry(header, tree.tar); err != nil {
			return err
		}
		var err error
		if header, err = tree.tar.Next(); errors.Is(err, io.EOF) {
			return u.finish()
		} else if err != nil {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
}

// begin decides by the first entry where everything goes.
func (u *unpacker) begin(first *tar.Header, target string) error {
	u.top = path.Clean(first.Name)
	if target == "" {
		target = "."
	}
	info, err := os.Stat(target)
	exists := err == nil
	switch {
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return reason(err)
	case exists && !info.IsDir() && first.Typeflag == tar.TypeDir:
		return errors.New("that is a file, and the source is a directory")
	case exists && !info.IsDir() && !info.Mode().IsRegular():
		return errors.New("that is neither a file nor a directory")
	case !exists && first.Typeflag != tar.TypeDir && strings.HasSuffix(target, "/"):
		return errors.New("there is no such directory")
	}
	dir := target
	switch {
	case first.Typeflag == tar.TypeDir:
		if exists && !u.contents && u.base != "/" {
			dir = filepath.Join(target, u.base)
		}
		if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return reason(err)
		}
		if dir != target {
			// The user did not name it. A link there may be what a guest sent
			// with an earlier copy.
			if info, err := os.Lstat(dir); err != nil {
				return reason(err)
			} else if !info.IsDir() {
				return fmt.Errorf("%q is not a directory", dir)
			}
		}
	case exists && info.IsDir():
		u.file = u.base
	default:
		// A link that the user names is followed.
		if followed, err := filepath.EvalSymlinks(target); err == nil {
			target = followed
		}
		dir, u.file = filepath.Dir(target), filepath.Base(target)
	}
	if u.root, err = os.OpenRoot(dir); err != nil {
		return reason(err)
	}
	return nil
}

// entry writes one entry. An old file in its place is replaced.
func (u *unpacker) entry(header *tar.Header, in io.Reader) error {
	name, err := u.name(header.Name)
	if err != nil {
		return err
	}
	if header.Typeflag == tar.TypeDir {
		if name != "." {
			if err := u.root.Mkdir(name, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
				return err
			}
		}
		if u.known[name] {
			return nil
		}
		if u.known == nil {
			u.known = map[string]bool{}
		}
		u.known[name] = true
		u.dirs = append(u.dirs, dirEntry{name: name, mode: fs.FileMode(header.Mode) & fs.ModePerm, time: header.ModTime})
		return nil
	}
	if name == "." {
		return fmt.Errorf("the guest sent %q as a file and as a directory", header.Name)
	}
	switch header.Typeflag {
	case tar.TypeReg, tar.TypeSymlink, tar.TypeLink:
	default:
		u.report.Warn(header.Name + " is skipped: it is neither a file, a directory nor a link")
		return nil
	}
	if err := u.root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	switch header.Typeflag {
	case tar.TypeSymlink:
		return u.root.Symlink(header.Linkname, name)
	case tar.TypeLink:
		old, err := u.name(header.Linkname)
		if err != nil {
			return err
		}
		return u.root.Link(old, name)
	}
	return u.regular(header, name, in)
}

func (u *unpacker) regular(header *tar.Header, name string, in io.Reader) error {
	out, err := u.root.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	counted := &copied{Writer: out, report: u.report, text: u.text}
	_, err = io.Copy(counted, in)
	if err == nil {
		// Not the bits that give rights away: the guest chose them.
		err = out.Chmod(fs.FileMode(header.Mode) & fs.ModePerm)
	}
	if closeErr := out.Close(); err == nil {
		err = closeErr
	}
	if err == nil && !header.ModTime.IsZero() {
		err = u.root.Chtimes(name, time.Time{}, header.ModTime)
	}
	return err
}

// name maps the name of an entry to one below root.
func (u *unpacker) name(of string) (string, error) {
	name := path.Clean(of)
	if u.file != "" {
		if name != u.top {
			return "", fmt.Errorf("the guest sent %q beside a file", of)
		}
		return u.file, nil
	}
	if u.top != "." {
		rest, ok := strings.CutPrefix(name, u.top+"/")
		if !ok && name != u.top {
			return "", fmt.Errorf("the guest sent the bad name %q", of)
		}
		if !ok {
			return ".", nil
		}
		name = rest
	}
	if !filepath.IsLocal(name) {
		return "", fmt.Errorf("the guest sent the bad name %q", of)
	}
	return name, nil
}

// finish sets modes and times of directories, the deepest first.
func (u *unpacker) finish() error {
	for _, dir := range slices.Backward(u.dirs) {
		if dir.name == "." && u.contents {
			continue // it is the user's
		}
		if err := u.root.Chmod(dir.name, dir.mode); err != nil {
			return err
		}
		if err := u.root.Chtimes(dir.name, time.Time{}, dir.time); err != nil {
			return err
		}
	}
	return nil
}
