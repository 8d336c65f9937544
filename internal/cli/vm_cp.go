package cli

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"banger/internal/agent"
	"banger/internal/agent/wire"
	"banger/internal/api"
	"banger/internal/progress"
)

// guestHome is where relative paths of a guest begin.
const guestHome = "/root"

func newVMCopy(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "cp SOURCE DESTINATION",
		Short: "Copy files and directories to or from a VM",
		Long: `Copy a file or a directory, with all that is in it, between this host and a running
VM. One of the two is NAME:PATH; a relative PATH begins in /root, and a path of
this host that has a colon is written ./a:b.

It goes where 'cp -r' would put it: into DESTINATION if that is a directory, else it
becomes DESTINATION. SOURCE/. means what is in the directory rather than itself.
Modes, times and symbolic links are kept. Files belong to root in the guest, and to
you here.`,
		Example: `  banger vm cp ./site sandbox:/srv
  banger vm cp config.json sandbox:/etc/app/config.json
  banger vm cp sandbox:/var/log/syslog .
  banger vm cp sandbox:results/. ./results`,
		Args: exactly("SOURCE", "DESTINATION"),
		ValidArgsFunction: func(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 1 || strings.Contains(prefix, ":") {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			names, directive := a.live(vmNames)(cmd, nil, prefix)
			for i := range names {
				names[i] += ":"
			}
			return names, directive | cobra.ShellCompDirectiveNoSpace
		},
		RunE: func(cmd *cobra.Command, args []string) error { return runVMCopy(cmd.Context(), a, args[0], args[1]) },
	}
}

// splitGuest takes NAME:PATH apart; ok is false for a path of this host. The
// path is absolute, and keeps a slash or a dot at its end.
func splitGuest(arg string) (name, file string, ok bool) {
	name, file, ok = strings.Cut(arg, ":")
	if !ok || api.CheckName(name) != nil {
		return "", "", false
	}
	if !strings.HasPrefix(file, "/") {
		file = guestHome + "/" + file
	}
	return name, file, true
}

func runVMCopy(ctx context.Context, a *app, source, destination string) error {
	fromName, fromFile, fromGuest := splitGuest(source)
	toName, toFile, toGuest := splitGuest(destination)
	switch {
	case fromGuest && toGuest:
		return &usageError{message: "cannot copy from one VM to another at once", hint: "copy to this host first"}
	case !fromGuest && !toGuest:
		return &usageError{message: fmt.Sprintf("neither %q nor %q is in a VM", source, destination), hint: "write the one in the VM as NAME:PATH"}
	}
	if toGuest {
		if _, err := os.Stat(source); err != nil {
			return fmt.Errorf("cannot copy %q: %w", source, reason(err))
		}
	}
	c, vm, err := a.running(ctx, fromName+toName)
	if err != nil {
		return err
	}
	report, end := a.progress()
	defer end()
	copier := copier{guest: guestOf(c, vm.ID), report: quiet(report, isTerminal(a.env.Err))}
	if toGuest {
		return copier.upload(ctx, source, toFile)
	}
	return copier.download(ctx, fromFile, destination)
}

// quiet drops all but warnings where no live line can show the progress.
func quiet(report progress.Func, live bool) progress.Func {
	return func(event progress.Event) {
		if live || event.Warning {
			report(event)
		}
	}
}

// reason is what a failed call on a file says without its path.
func reason(err error) error {
	if pathErr, ok := errors.AsType[*os.PathError](err); ok {
		return pathErr.Err
	}
	return err
}

// copier copies between the host and one guest.
type copier struct {
	guest  *agent.Client
	report progress.Func
}

// copied makes a writer report how much has gone through it.
type copied struct {
	io.Writer
	report progress.Func
	text   string
	done   int64
}

func (c *copied) Write(p []byte) (int, error) {
	n, err := c.Writer.Write(p)
	c.done += int64(n)
	c.report(progress.Event{Text: c.text, Done: c.done, Bytes: true})
	return n, err
}

// maxLinks is how many links the kernel follows too.
const maxLinks = 40

// guestTree is a file or a directory of a guest as a tar stream, whose first
// entry was read already.
type guestTree struct {
	io.Closer
	tar   *tar.Reader
	first *tar.Header
}

// errAbsent says that there is no such file in the guest.
var errAbsent = errors.New("there is no such file in the guest")

// open begins to read a file or directory. A link that is named is followed.
func (c *copier) open(ctx context.Context, file string) (*guestTree, error) {
	for range maxLinks {
		stream, err := c.guest.Download(ctx, file)
		if answered, ok := errors.AsType[*wire.Error](err); ok && answered.Kind == wire.ErrNotFound {
			return nil, errAbsent
		}
		if err != nil {
			return nil, err
		}
		tree := &guestTree{Closer: stream, tar: tar.NewReader(stream)}
		if tree.first, err = tree.tar.Next(); err != nil {
			stream.Close()
			return nil, fmt.Errorf("cannot read what the guest sends: %w", err)
		}
		if tree.first.Typeflag != tar.TypeSymlink {
			return tree, nil
		}
		stream.Close()
		next := tree.first.Linkname
		if !strings.HasPrefix(next, "/") {
			next = path.Dir(path.Clean(file)) + "/" + next
		}
		file = next
	}
	return nil, errors.New("there are too many links")
}

// guestKind is what a path in the guest is.
type guestKind int

const (
	guestAbsent guestKind = iota
	guestFile
	guestDir
)

func (c *copier) kind(ctx context.Context, file string) (guestKind, error) {
	tree, err := c.open(ctx, path.Clean(file))
	if errors.Is(err, errAbsent) {
		return guestAbsent, nil
	}
	if err != nil {
		return guestAbsent, err
	}
	defer tree.Close()
	if tree.first.Typeflag == tar.TypeDir {
		return guestDir, nil
	}
	return guestFile, nil
}

// upload copies source into the guest. target is absolute.
func (c *copier) upload(ctx context.Context, source, target string) error {
	info, err := os.Stat(source)
	if err != nil {
		return fmt.Errorf("cannot copy %q: %w", source, reason(err))
	}
	kind, err := c.kind(ctx, target)
	if err != nil {
		return fmt.Errorf("cannot look at %q in the guest: %w", target, err)
	}
	contents := info.IsDir() && isContents(source)
	parent, base := path.Split(path.Clean(target))
	switch {
	case kind == guestFile && info.IsDir():
		return fmt.Errorf("cannot copy the directory %q to %q in the guest: that is a file", source, target)
	case kind == guestAbsent && !info.IsDir() && strings.HasSuffix(target, "/"):
		return fmt.Errorf("cannot copy to %q in the guest: there is no such directory", target)
	case kind == guestDir && contents, kind == guestAbsent && contents:
		parent, base = path.Clean(target), "."
	case kind == guestDir:
		absolute, err := filepath.Abs(source)
		if err != nil {
			return fmt.Errorf("cannot copy %q: %w", source, err)
		}
		parent, base = path.Clean(target), filepath.Base(absolute)
	}
	reader, writer := io.Pipe()
	go func() {
		counted := &copied{Writer: writer, report: c.report, text: "copying " + source}
		writer.CloseWithError(c.writeTree(ctx, counted, source, base))
	}()
	err = c.guest.Upload(ctx, parent, reader)
	// Ends the writing where the guest gave up first.
	if closeErr := reader.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return fmt.Errorf("cannot copy %q to %q in the guest: %w", source, target, err)
	}
	return nil
}

// isContents reports whether a path ends with "/.".
func isContents(file string) bool {
	return file == "." || strings.HasSuffix(file, "/.")
}

// writeTree writes a file or a directory as tar, named base.
func (c *copier) writeTree(ctx context.Context, w io.Writer, source, base string) error {
	out := tar.NewWriter(w)
	// A link that is named is followed, one that is met is copied.
	root, err := filepath.EvalSymlinks(source)
	if err != nil {
		return err
	}
	err = filepath.WalkDir(root, func(file string, entry os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		relative, err := filepath.Rel(root, file)
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		if kind := info.Mode().Type(); kind != 0 && kind != os.ModeDir && kind != os.ModeSymlink {
			c.report.Warn(file + " is skipped: it is neither a file, a directory nor a link")
			return nil
		}
		name := path.Join(base, filepath.ToSlash(relative))
		if name == "." {
			// The directory that its contents go to has a mode of its own.
			return nil
		}
		return writeEntry(out, file, name, info)
	})
	if err != nil {
		return err
	}
	return out.Close()
}

func writeEntry(out *tar.Writer, file, name string, info os.FileInfo) error {
	link := ""
	if info.Mode()&os.ModeSymlink != 0 {
		var err error
		if link, err = os.Readlink(file); err != nil {
			return err
		}
	}
	header, err := tar.FileInfoHeader(info, link)
	if err != nil {
		return err
	}
	header.Name = name
	if info.IsDir() {
		header.Name += "/"
	}
	header.Format = tar.FormatPAX
	header.Uid, header.Gid, header.Uname, header.Gname = 0, 0, "", ""
	if !info.Mode().IsRegular() {
		return out.WriteHeader(header)
	}
	content, err := os.Open(file)
	if err != nil {
		return err
	}
	defer content.Close()
	if err := out.WriteHeader(header); err != nil {
		return err
	}
	n, err := io.Copy(out, io.LimitReader(content, header.Size))
	if err != nil {
		return err
	}
	if n < header.Size {
		return fmt.Errorf("%q became shorter while it was copied", file)
	}
	return nil
}
