package kernel

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"github.com/pelletier/go-toml/v2"

	"banger/images/kernels"
	"banger/internal/api"
)

// recipe says how a kernel is got.
type recipe struct {
	name string

	Description string `toml:"description"`
	// Suite is the distribution's, Package a metapackage in it that depends
	// on the kernel's package.
	Suite   string `toml:"suite"`
	Package string `toml:"package"`
	// VersionPrefix is what the kernel's version begins with.
	VersionPrefix string `toml:"version_prefix"`
	// BootModules are names of modules, without those they depend on.
	BootModules []string `toml:"boot_modules"`
}

// catalog returns the embedded recipes in the order of their names.
func catalog() ([]recipe, error) { return readCatalog(kernels.Recipes) }

func readCatalog(files fs.FS) ([]recipe, error) {
	paths, err := fs.Glob(files, "*.toml")
	if err != nil {
		return nil, fmt.Errorf("cannot list the kernel catalog: %w", err)
	}
	var recipes []recipe
	for _, file := range paths {
		data, err := fs.ReadFile(files, file)
		if err != nil {
			return nil, fmt.Errorf("cannot read the kernel catalog: %w", err)
		}
		r := recipe{name: strings.TrimSuffix(path.Base(file), ".toml")}
		if err := toml.NewDecoder(strings.NewReader(string(data))).DisallowUnknownFields().Decode(&r); err != nil {
			return nil, fmt.Errorf("cannot read %q of the kernel catalog: %w", file, err)
		}
		if err := r.check(); err != nil {
			return nil, fmt.Errorf("cannot use %q of the kernel catalog: %w", file, err)
		}
		recipes = append(recipes, r)
	}
	return recipes, nil
}

func (r recipe) check() error {
	switch {
	case r.Description == "":
		return errors.New("it has no description")
	case r.Suite == "":
		return errors.New("it has no suite")
	case r.Package == "" || strings.Trim(r.Package, "abcdefghijklmnopqrstuvwxyz0123456789.+-") != "":
		return fmt.Errorf("%q is no name of a package", r.Package)
	case r.VersionPrefix == "":
		return errors.New("it has no version_prefix")
	}
	return nil
}

// find returns the recipe of a kernel.
func find(name string) (recipe, error) {
	recipes, err := catalog()
	if err != nil {
		return recipe{}, err
	}
	var names []string
	for _, r := range recipes {
		if r.name == name {
			return r, nil
		}
		names = append(names, r.name)
	}
	return recipe{}, &api.Error{
		Kind:    api.KindNotFound,
		Message: fmt.Sprintf("no kernel %q, neither in the store nor in the catalog", name),
		Hint:    "the catalog has: " + strings.Join(names, ", "),
	}
}
