package image

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2"

	"banger/internal/size"
)

// definitionFile is the definition's place in its directory.
const definitionFile = "definition.toml"

// Definition says how an image is built from the Debian archive. It is data that
// comes with banger; unknown keys and odd values are refused all the same.
type Definition struct {
	// Extends is a definition of the catalog that this one is a variant of: what is
	// not set here is as there, and lists add to those there, but for
	// KeyPackages, which replace them.
	Extends string `toml:"extends"`
	// Without are packages and paths of files of that definition that this one has
	// not.
	Without []string `toml:"without"`

	Description string `toml:"description"`
	Kernel      string `toml:"kernel"`      // name of the default kernel
	Init        string `toml:"init"`        // path of the image's init, empty if it has none
	ImageSpace  string `toml:"image_space"` // disk the image needs
	BuildSpace  string `toml:"build_space"` // disk the tree needs while it is built

	Suite       string   `toml:"suite"`
	Variant     string   `toml:"variant"` // of mmdebstrap
	Components  []string `toml:"components"`
	Packages    []string `toml:"packages"`
	KeyPackages []string `toml:"key_packages"` // whose versions are shown to the user
	AptOptions  []string `toml:"apt_options"`
	DpkgOptions []string `toml:"dpkg_options"`

	Files   []File   `toml:"file"`    // placed after the packages are installed
	NPM     []NPM    `toml:"npm"`     // likewise
	Scripts []string `toml:"scripts"` // files run in the tree after that, by "sh -eu"

	name   string
	dirs   layers
	digest string
}

// File is a file that is placed in the tree; it belongs to root.
type File struct {
	Path   string `toml:"path"`
	Source string `toml:"source"` // in the definition's directory
	Mode   string `toml:"mode"`   // octal, 0644 if empty
}

// NPM is one file out of a package of the npm registry. The image is built
// without it if it cannot be had.
type NPM struct {
	Name      string `toml:"name"`
	Package   string `toml:"package"`
	Version   string `toml:"version"`
	Integrity string `toml:"integrity"` // "sha512-" and base64
	Member    string `toml:"member"`    // in the package's archive
	Path      string `toml:"path"`      // in the tree
	Mode      string `toml:"mode"`
}

// readDefinition reads the definition in the directory of that name and checks it.
func readDefinition(catalog fs.FS, name string) (*Definition, error) {
	d, err := loadDefinition(catalog, name)
	if err != nil {
		return nil, fmt.Errorf("cannot read the definition of image %q: %w", name, err)
	}
	if base := d.Extends; base != "" {
		extended, err := loadDefinition(catalog, base)
		if err == nil && extended.Extends != "" {
			err = errors.New("it extends another one itself")
		}
		if err == nil {
			d, err = extended.extend(d)
		}
		if err != nil {
			return nil, fmt.Errorf("cannot use the definition of image %q: it extends %q: %w", name, base, err)
		}
	}
	if err := errors.Join(d.check(), d.checkSources()); err != nil {
		return nil, fmt.Errorf("cannot use the definition of image %q: %w", name, err)
	}
	if d.digest, err = d.dirs.digest(); err != nil {
		return nil, fmt.Errorf("cannot read the definition of image %q: %w", name, err)
	}
	return d, nil
}

// loadDefinition reads a definition without judging it.
func loadDefinition(catalog fs.FS, name string) (*Definition, error) {
	dir, err := fs.Sub(catalog, name)
	if err != nil {
		return nil, err
	}
	data, err := fs.ReadFile(dir, definitionFile)
	if err != nil {
		return nil, err
	}
	d, err := parseDefinition(data)
	if err != nil {
		return nil, err
	}
	d.name, d.dirs = name, layers{dir}
	return d, nil
}

// extend makes the definition that variant, which extends d, stands for.
func (d *Definition) extend(variant *Definition) (*Definition, error) {
	merged := *variant
	for _, field := range []struct{ to, from *string }{
		{&merged.Description, &d.Description},
		{&merged.Kernel, &d.Kernel},
		{&merged.Init, &d.Init},
		{&merged.ImageSpace, &d.ImageSpace},
		{&merged.BuildSpace, &d.BuildSpace},
		{&merged.Suite, &d.Suite},
		{&merged.Variant, &d.Variant},
	} {
		*field.to = cmp.Or(*field.to, *field.from)
	}
	without := make(map[string]bool) // true for what was found
	for _, name := range variant.Without {
		without[name] = false
	}
	dropped := func(name string) bool {
		_, ok := without[name]
		if ok {
			without[name] = true
		}
		return ok
	}
	merged.Packages = append(slices.DeleteFunc(slices.Clone(d.Packages), dropped), variant.Packages...)
	merged.Files = append(slices.DeleteFunc(slices.Clone(d.Files), func(f File) bool { return dropped(f.Path) }), variant.Files...)
	merged.Components = append(slices.Clone(d.Components), variant.Components...)
	merged.AptOptions = append(slices.Clone(d.AptOptions), variant.AptOptions...)
	merged.DpkgOptions = append(slices.Clone(d.DpkgOptions), variant.DpkgOptions...)
	merged.NPM = append(slices.Clone(d.NPM), variant.NPM...)
	merged.Scripts = append(slices.Clone(d.Scripts), variant.Scripts...)
	if len(merged.KeyPackages) == 0 {
		merged.KeyPackages = d.KeyPackages
	}
	merged.dirs = append(slices.Clone(variant.dirs), d.dirs...)
	for _, name := range variant.Without {
		if !without[name] {
			return nil, fmt.Errorf("without: it has no package or file %q", name)
		}
	}
	return &merged, nil
}

// layers are directories of which the first that has a file is where it comes
// from.
type layers []fs.FS

// read returns the content of a file.
func (l layers) read(name string) (data []byte, err error) {
	for _, dir := range l {
		data, err = fs.ReadFile(dir, name)
		if !errors.Is(err, fs.ErrNotExist) {
			break
		}
	}
	return data, err
}

func parseDefinition(data []byte) (*Definition, error) {
	var d Definition
	dec := toml.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&d); err != nil {
		if strict, ok := errors.AsType[*toml.StrictMissingError](err); ok && len(strict.Errors) > 0 {
			line, _ := strict.Errors[0].Position()
			return nil, fmt.Errorf("line %d: unknown key %q", line, strings.Join(strict.Errors[0].Key(), "."))
		}
		if syntax, ok := errors.AsType[*toml.DecodeError](err); ok {
			line, _ := syntax.Position()
			return nil, fmt.Errorf("line %d: %w", line, err)
		}
		return nil, err
	}
	return &d, nil
}

var (
	plainWord   = regexp.MustCompile(`^[a-z0-9][a-z0-9.+-]*$`)
	npmPackage  = regexp.MustCompile(`^(@[a-z0-9][a-z0-9._-]*/)?[a-z0-9][a-z0-9._-]*$`)
	npmVersion  = regexp.MustCompile(`^[0-9]+\.[0-9]+\.[0-9]+[0-9A-Za-z.+-]*$`)
	errNotThere = errors.New("is missing")
)

// check looks at everything that can be judged without the other files.
func (d *Definition) check() error {
	for _, field := range []struct {
		key, value string
		pattern    *regexp.Regexp
	}{
		{"suite", d.Suite, plainWord},
		{"variant", d.Variant, plainWord},
		{"kernel", d.Kernel, plainWord},
		{"description", d.Description, regexp.MustCompile(`\S`)},
	} {
		if field.value == "" {
			return fmt.Errorf("%s: %w", field.key, errNotThere)
		}
		if !field.pattern.MatchString(field.value) {
			return fmt.Errorf("%s: %q is not allowed", field.key, field.value)
		}
	}
	for _, words := range []struct {
		key    string
		values []string
	}{{"components", d.Components}, {"packages", d.Packages}, {"key_packages", d.KeyPackages}} {
		if len(words.values) == 0 {
			return fmt.Errorf("%s: %w", words.key, errNotThere)
		}
		for _, word := range words.values {
			if !plainWord.MatchString(word) {
				return fmt.Errorf("%s: %q is not allowed", words.key, word)
			}
		}
	}
	if len(d.Without) > 0 && d.Extends == "" {
		return errors.New("without: it extends nothing")
	}
	if d.Init != "" {
		if err := checkPath(d.Init); err != nil {
			return fmt.Errorf("init: %w", err)
		}
	}
	for key, value := range map[string]string{"image_space": d.ImageSpace, "build_space": d.BuildSpace} {
		if _, err := size.Parse(value); err != nil {
			return fmt.Errorf("%s: %w", key, err)
		}
	}
	for _, file := range d.Files {
		if err := errors.Join(checkPath(file.Path), checkMode(file.Mode)); err != nil {
			return fmt.Errorf("file %q: %w", file.Path, err)
		}
	}
	for _, npm := range d.NPM {
		if err := npm.check(); err != nil {
			return fmt.Errorf("npm %q: %w", npm.Name, err)
		}
	}
	return nil
}

func (n NPM) check() error {
	switch {
	case n.Name == "":
		return errors.New("the name is missing")
	case !npmPackage.MatchString(n.Package):
		return fmt.Errorf("%q is no package", n.Package)
	case !npmVersion.MatchString(n.Version):
		return fmt.Errorf("%q is no exact version", n.Version)
	case !fs.ValidPath(n.Member):
		return fmt.Errorf("%q is no member of an archive", n.Member)
	}
	if _, err := n.sum(); err != nil {
		return err
	}
	return errors.Join(checkPath(n.Path), checkMode(n.Mode))
}

// sum is the SHA-512 that Integrity pins.
func (n NPM) sum() ([]byte, error) {
	text, ok := strings.CutPrefix(n.Integrity, "sha512-")
	sum, err := base64.StdEncoding.DecodeString(text)
	if !ok || err != nil || len(sum) != 64 {
		return nil, fmt.Errorf("%q is no sha512 integrity", n.Integrity)
	}
	return sum, nil
}

func checkPath(p string) error {
	if p != path.Clean(p) || !path.IsAbs(p) || p == "/" {
		return fmt.Errorf("%q is not the clean absolute path of a file", p)
	}
	return nil
}

func checkMode(text string) error {
	_, err := mode(text)
	return err
}

func mode(text string) (int64, error) {
	if text == "" {
		return 0o644, nil
	}
	m, err := strconv.ParseInt(text, 8, 64)
	if err != nil || m < 0 || m > 0o7777 {
		return 0, fmt.Errorf("%q is no octal file mode", text)
	}
	return m, nil
}

// checkSources makes sure that every file the definition names is there.
func (d *Definition) checkSources() error {
	names := slices.Clone(d.Scripts)
	for _, file := range d.Files {
		names = append(names, file.Source)
	}
	for _, name := range names {
		if _, err := d.dirs.read(name); err != nil {
			return err
		}
	}
	return nil
}

// digest is the SHA-256 of all names and contents in the directories.
func (l layers) digest() (string, error) {
	hash := sha256.New()
	for _, dir := range l {
		err := fs.WalkDir(dir, ".", func(name string, entry fs.DirEntry, err error) error {
			if err != nil || entry.IsDir() {
				return err
			}
			data, err := fs.ReadFile(dir, name)
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(hash, "%s %d\n%s", name, len(data), data)
			return err
		})
		if err != nil {
			return "", err
		}
	}
	return "sha256:" + hex.EncodeToString(hash.Sum(nil)), nil
}

// readCatalog reads all definitions of fsys, by the names of their directories.
func readCatalog(fsys fs.FS) (map[string]*Definition, error) {
	entries, err := fs.ReadDir(fsys, ".")
	if err != nil {
		return nil, fmt.Errorf("cannot read the image catalog: %w", err)
	}
	definitions := make(map[string]*Definition)
	for _, entry := range entries {
		if !entry.IsDir() {
			continue
		}
		definition, err := readDefinition(fsys, entry.Name())
		if err != nil {
			return nil, err
		}
		definitions[entry.Name()] = definition
	}
	return definitions, nil
}
