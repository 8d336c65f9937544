package image

import (
	"archive/tar"
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"time"

	"banger/internal/debian"
)

// statusFile is dpkg's database in the tree.
const statusFile = "/var/lib/dpkg/status"

// maxStatus bounds what is read of it; a big one has some MiB.
const maxStatus = 64 << 20

// contents are what an image's tree was found to have.
type contents struct {
	init     bool // one of the usual paths of an init is there
	files    int
	packages []pkg
}

type pkg struct{ name, version string }

// inspect reads a tar stream to its end.
func inspect(stream io.Reader) (contents, error) {
	var c contents
	tr := tar.NewReader(bufio.NewReaderSize(stream, 1<<20))
	for {
		header, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return c, fmt.Errorf("cannot read the tree's archive: %w", err)
		}
		c.files++
		switch path.Join("/", header.Name) {
		case "/sbin/init", "/usr/sbin/init", "/lib/systemd/systemd", "/usr/lib/systemd/systemd":
			c.init = true
		case statusFile:
			if c.packages, err = readStatus(io.LimitReader(tr, maxStatus)); err != nil {
				return c, err
			}
		}
	}
	if _, err := io.Copy(io.Discard, stream); err != nil {
		return c, fmt.Errorf("cannot read the tree's archive: %w", err)
	}
	return c, nil
}

// readStatus reads which packages are installed from dpkg's database, sorted
// by name.
func readStatus(r io.Reader) ([]pkg, error) {
	var (
		list      []pkg
		p         pkg
		installed bool
	)
	flush := func() {
		if installed && p.name != "" {
			list = append(list, p)
		}
		p, installed = pkg{}, false
	}
	scanner := bufio.NewScanner(r)
	scanner.Buffer(nil, 1<<20)
	for scanner.Scan() {
		key, value, _ := strings.Cut(scanner.Text(), ": ")
		switch key {
		case "":
			flush()
		case "Package":
			p.name = value
		case "Version":
			p.version = value
		case "Status":
			installed = strings.HasSuffix(value, " installed")
		}
	}
	flush()
	if err := scanner.Err(); err != nil {
		return nil, fmt.Errorf("cannot read %s: %w", statusFile, err)
	}
	slices.SortFunc(list, func(a, b pkg) int { return strings.Compare(a.name, b.name) })
	return list, nil
}

// check makes sure that the tree is what the definition promises.
func (c contents) check(d *Definition) error {
	if d.Init != "" && !c.init {
		return fmt.Errorf("the tree has no %s", d.Init)
	}
	for _, name := range d.Packages {
		if c.version(name) == "" {
			return fmt.Errorf("package %q is not installed in the tree", name)
		}
	}
	return nil
}

func (c contents) version(name string) string {
	for _, p := range c.packages {
		if p.name == name {
			return p.version
		}
	}
	return ""
}

// source is the provenance that is kept with the image.
func (c contents) source(ctx context.Context, d *Definition) map[string]string {
	list := sha256.New()
	for _, p := range c.packages {
		fmt.Fprintf(list, "%s %s\n", p.name, p.version)
	}
	source := map[string]string{
		"suite":      d.Suite,
		"definition": d.digest,
		"packages":   fmt.Sprintf("%d, sha256:%s", len(c.packages), hex.EncodeToString(list.Sum(nil))),
		"built":      time.Now().UTC().Format(time.DateOnly),
	}
	// A version that cannot be told is left out: the image is as good.
	if version, err := debian.Version(ctx); err == nil {
		source["mmdebstrap"] = version
	}
	for _, name := range d.KeyPackages {
		if version := c.version(name); version != "" {
			source["package "+name] = version
		}
	}
	return source
}
