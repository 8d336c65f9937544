// Package recipe reads the recipes of `image build`: files in TOML that say what
// an image has more than another. docs/image-catalog.md has the keys.
package recipe

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"banger/internal/leftout"
	"banger/internal/regular"
	"banger/internal/tomlfile"
)

// Recipe says how an image is made of another, in a VM of that.
type Recipe struct {
	// Base is the image that it is made of.
	Base        string
	Description string
	// Kernel is what the image boots, empty for what Base does.
	Kernel string
	// Packages are installed with apt.
	Packages []string
	// Files are put into the VM after that, and belong to root.
	Files []File
	// Scripts are run in the end, by "sh -eu", in this order.
	Scripts []Script
	// Digest is of the recipe and of all that comes with it: "sha256:HEX".
	Digest string
}

// File is one that comes with a recipe.
type File struct {
	Path    string // absolute and clean
	Mode    int64  // as for chmod(2)
	Content []byte
}

// Script is a shell script.
type Script struct{ Name, Text string }

// recipe is the file as written.
type recipe struct {
	Base        string   `toml:"base"`
	Suite       string   `toml:"suite"`
	Description string   `toml:"description"`
	Kernel      string   `toml:"kernel"`
	Packages    []string `toml:"packages"`
	Files       []file   `toml:"file"`
	Scripts     []string `toml:"scripts"`
}

type file struct {
	Path   string `toml:"path"`
	Source string `toml:"source"`
	Mode   string `toml:"mode"`
}

// Bounds in bytes: of a recipe, and of all that it names.
const (
	maxRecipe = 1 << 20
	maxFiles  = 64 << 20
)

// Read reads the recipe at a path, and the files that it names, which are in
// its directory. The error is a [tomlfile.Error] where the recipe is wrong.
func Read(name string) (*Recipe, error) {
	data, _, err := regular.Read(name, maxRecipe)
	if err != nil {
		return nil, fmt.Errorf("cannot read the recipe: %w", err)
	}
	dir, err := os.OpenRoot(filepath.Dir(name))
	if err != nil {
		return nil, fmt.Errorf("cannot read the recipe: %w", err)
	}
	defer dir.Close()
	from := sources{dir: dir, left: maxFiles}
	return parse(name, data, from.read)
}

// parse makes a recipe of a file's content. What comes with it is got with read.
func parse(name string, data []byte, read func(source string) ([]byte, error)) (*Recipe, error) {
	var written recipe
	if bad := tomlfile.Decode(name, data, &written); bad != nil {
		return nil, bad
	}
	hash := sha256.New()
	hash.Write(data)
	reading := func(source string) ([]byte, error) {
		content, err := read(source)
		fmt.Fprintf(hash, "%q %d\n%s", source, len(content), content)
		return content, err
	}
	r := &Recipe{Description: written.Description, Kernel: written.Kernel, Packages: written.Packages}
	for _, key := range []struct {
		name string
		set  func() error
	}{
		{"base", func() error { return setBase(&r.Base, written) }},
		{"suite", func() error { return optional(suite, written.Suite) }},
		{"description", func() error { return optional(line, written.Description) }},
		{"kernel", func() error { return optional(object, written.Kernel) }},
		{"packages", func() error { return checkPackages(written.Packages) }},
		{"scripts", func() error { return readScripts(&r.Scripts, written.Scripts, reading) }},
	} {
		if err := key.set(); err != nil {
			return nil, &tomlfile.Error{Path: name, Line: tomlfile.KeyLine(data, key.name), Key: key.name, Reason: err.Error()}
		}
	}
	for i, entry := range written.Files {
		var f File
		for _, key := range []struct {
			name string
			set  func() error
		}{
			{"path", func() error { return setPath(&f.Path, entry.Path) }},
			{"mode", func() error { return setMode(&f.Mode, entry.Mode) }},
			{"source", func() (err error) { f.Content, err = reading(entry.Source); return err }},
		} {
			if err := key.set(); err != nil {
				return nil, &tomlfile.Error{Path: name, Line: tomlfile.EntryLine(data, "file", i, key.name), Key: "file." + key.name, Reason: err.Error()}
			}
		}
		r.Files = append(r.Files, f)
	}
	r.Digest = "sha256:" + hex.EncodeToString(hash.Sum(nil))
	return r, nil
}

// They are compiled when used: this is in the program that starts with every
// command.
const (
	image  = `^[a-zA-Z0-9][a-zA-Z0-9._/:@-]*$` // a name, or a reference to a registry
	object = `^[a-zA-Z0-9][a-zA-Z0-9._-]*$`
	suite  = `^[a-z]+$`
	line   = `^[^\x00-\x1f\x7f]{1,200}$`
	debian = `^[a-z0-9][a-z0-9.+-]*(=[A-Za-z0-9.+:~-]+)?$`
)

func optional(pattern, value string) error {
	if value == "" || regexp.MustCompile(pattern).MatchString(value) {
		return nil
	}
	return fmt.Errorf("%q is not allowed", value)
}

// setBase takes an image, or the one that banger has of a Debian suite.
func setBase(to *string, written recipe) error {
	*to = written.Base
	switch {
	case written.Base != "" && written.Suite != "":
		return errors.New("there is a suite too: give one of them")
	case written.Suite != "":
		*to = "debian-" + written.Suite
	case written.Base == "":
		return errors.New("it is missing: the image to begin with, or a suite of Debian")
	}
	return optional(image, written.Base)
}

func checkPackages(names []string) error {
	pattern := regexp.MustCompile(debian)
	for _, name := range names {
		if !pattern.MatchString(name) {
			return fmt.Errorf("%q is no package", name)
		}
	}
	return nil
}

func readScripts(to *[]Script, names []string, read func(string) ([]byte, error)) error {
	for _, name := range names {
		text, err := read(name)
		if err != nil {
			return err
		}
		*to = append(*to, Script{Name: name, Text: string(text)})
	}
	return nil
}

func setPath(to *string, from string) error {
	*to = from
	if from == "/" || !path.IsAbs(from) || path.Clean(from) != from || strings.Contains(from, "\x00") {
		return fmt.Errorf("%q is not the clean absolute path of a file", from)
	}
	if why := leftout.Why(from[1:]); why != "" {
		return fmt.Errorf("%q would not be in the image: %s", from, why)
	}
	return nil
}

func setMode(to *int64, from string) error {
	*to = 0o644
	if from == "" {
		return nil
	}
	mode, err := strconv.ParseInt(from, 8, 64)
	if err != nil || mode < 0 || mode > 0o7777 {
		return fmt.Errorf("%q is no octal file mode", from)
	}
	*to = mode
	return nil
}

// sources reads what comes with a recipe.
type sources struct {
	dir  *os.Root
	left int64 // bytes that may still be read
}

func (s *sources) read(name string) ([]byte, error) {
	if name == "" {
		return nil, errors.New("it is missing")
	}
	info, err := s.dir.Stat(name)
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("it is not a regular file")
	}
	if err == nil && info.Size() > s.left {
		err = fmt.Errorf("it is too long: all together may have %d MiB", maxFiles>>20)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read %q: %w", name, reason(err))
	}
	file, err := s.dir.Open(name)
	if err != nil {
		return nil, fmt.Errorf("cannot read %q: %w", name, reason(err))
	}
	defer file.Close()
	content, err := io.ReadAll(io.LimitReader(file, info.Size()))
	if err != nil {
		return nil, fmt.Errorf("cannot read %q: %w", name, reason(err))
	}
	s.left -= int64(len(content))
	return content, nil
}

// reason is what a failed call on a file says without its path.
func reason(err error) error {
	if failed, ok := errors.AsType[*fs.PathError](err); ok {
		return failed.Err
	}
	return err
}
