package kernel

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"

	"banger/images/kernels"
	"banger/internal/catalog"
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

// recipes returns those that the catalog of this binary names, as it does.
func recipes() ([]recipe, error) {
	builtIn, err := catalog.Embedded()
	if err != nil {
		return nil, err
	}
	all, err := readCatalog(kernels.Recipes)
	if err != nil {
		return nil, err
	}
	var offered []recipe
	for _, entry := range builtIn.Kernels {
		i := slices.IndexFunc(all, func(r recipe) bool { return r.name == entry.Recipe })
		if i < 0 {
			return nil, fmt.Errorf("the kernel catalog has no recipe %q", entry.Recipe)
		}
		r := all[i]
		r.name = entry.Name
		offered = append(offered, r)
	}
	return offered, nil
}

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

func names(recipes []recipe) []string {
	names := make([]string, len(recipes))
	for i, r := range recipes {
		names[i] = r.name
	}
	return names
}
