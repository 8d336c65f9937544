package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha512"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"banger/internal/excerpt"
	"banger/internal/progress"
)

// npmTimeout bounds one download, so that a network that swallows packets does
// not stop an image that can do without.
const npmTimeout = 3 * time.Minute

// npmFiles are downloaded and verified packages, in a directory of their own.
type npmFiles struct {
	dir   string
	files []npmFile
}

type npmFile struct {
	NPM
	archive string
}

// Close removes the downloads.
func (f npmFiles) Close() error { return os.RemoveAll(f.dir) }

// fetchNPM downloads the definition's npm packages with the npm client. Packages
// that cannot be had are told about in notes; the error is ctx's, or one of
// this machine.
func (d *Definition) fetchNPM(ctx context.Context, report progress.Func) (files npmFiles, notes []string, err error) {
	dir, err := os.MkdirTemp("", "banger-npm-")
	if err != nil {
		return files, nil, fmt.Errorf("cannot make a directory to download to: %w", err)
	}
	files.dir = dir
	for _, n := range d.NPM {
		report.Step("downloading " + n.Name + " " + n.Version)
		archive, err := n.download(ctx, dir)
		switch {
		case ctx.Err() != nil:
			return files, nil, errors.Join(ctx.Err(), files.Close())
		case err != nil:
			note := fmt.Sprintf("%s is not in this image: %v", n.Name, err)
			report.Warn(note)
			notes = append(notes, note)
		default:
			files.files = append(files.files, npmFile{n, archive})
		}
	}
	return files, notes, nil
}

// download returns the path of the package's archive, the integrity of which
// it has verified.
func (n NPM) download(ctx context.Context, dir string) (string, error) {
	npm, err := exec.LookPath("npm")
	if err != nil {
		return "", errors.New("it comes by the npm client, which is not on this machine (to have it: install npm, delete the image, pull it again)")
	}
	dir, err = os.MkdirTemp(dir, "pack-")
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, npmTimeout)
	defer cancel()
	var said excerpt.Writer
	cmd := exec.CommandContext(ctx, npm, "pack", n.Package+"@"+n.Version, "--ignore-scripts", "--loglevel=error", "--no-update-notifier", "--no-audit")
	cmd.Dir = dir
	cmd.Stderr = &said
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Run(); err != nil {
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return "", fmt.Errorf("the npm client did not fetch it in %v", npmTimeout)
		}
		return "", fmt.Errorf("the npm client cannot fetch it: %w%s", err, npmCode(said.String()))
	}
	found, err := filepath.Glob(filepath.Join(dir, "*.tgz"))
	if err != nil || len(found) != 1 {
		return "", fmt.Errorf("the npm client fetched %d files, not one", len(found))
	}
	return found[0], n.verify(found[0])
}

// npmCode returns, after a colon, the code of what the npm client complains of.
// It also tells addresses, which are nobody's business: the image has the note.
func npmCode(stderr string) string {
	for line := range strings.Lines(stderr) {
		for _, prefix := range []string{"npm error code ", "npm ERR! code "} {
			if code, ok := strings.CutPrefix(line, prefix); ok {
				return ": " + strings.TrimSpace(code)
			}
		}
	}
	return ""
}

// verify compares the archive with what the definition pins.
func (n NPM) verify(archive string) error {
	want, err := n.sum()
	if err != nil {
		return err
	}
	f, err := os.Open(archive)
	if err != nil {
		return err
	}
	defer f.Close()
	hash := sha512.New()
	if _, err := io.Copy(hash, f); err != nil {
		return err
	}
	if !bytes.Equal(hash.Sum(nil), want) {
		return errors.New("what was downloaded is not what the definition pins")
	}
	return nil
}

// writeTo writes the wanted file of each package.
func (f npmFiles) writeTo(w *tar.Writer) error {
	for _, file := range f.files {
		if err := file.writeTo(w); err != nil {
			return fmt.Errorf("cannot take %q out of %s: %w", file.Member, file.Package, err)
		}
	}
	return nil
}

func (f npmFile) writeTo(w *tar.Writer) error {
	archive, err := os.Open(f.archive)
	if err != nil {
		return err
	}
	defer archive.Close()
	unzipped, err := gzip.NewReader(archive)
	if err != nil {
		return err
	}
	tr := tar.NewReader(unzipped)
	for {
		header, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return errors.New("it is not there")
		}
		if err != nil {
			return err
		}
		if header.Name != f.Member || header.Typeflag != tar.TypeReg {
			continue
		}
		perm, err := mode(f.Mode)
		if err != nil {
			return err
		}
		err = w.WriteHeader(&tar.Header{Name: "." + f.Path, Mode: perm, Size: header.Size, ModTime: header.ModTime})
		if err != nil {
			return err
		}
		_, err = io.Copy(w, tr)
		return err
	}
}
