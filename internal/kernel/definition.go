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

// definition says how a kernel is got.
type definition struct {
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

// definitions returns those that the catalog of this binary names, as it does.
func definitions() ([]definition, error) {
	builtIn, err := catalog.Embedded()
	if err != nil {
		return nil, err
	}
	all, err := readCatalog(kernels.Definitions)
	if err != nil {
		return nil, err
	}
	var offered []definition
	for _, entry := range builtIn.Kernels {
		i := slices.IndexFunc(all, func(d definition) bool { return d.name == entry.Definition })
		if i < 0 {
			return nil, fmt.Errorf("the kernel catalog has no definition %q", entry.Definition)
		}
		d := all[i]
		d.name = entry.Name
		offered = append(offered, d)
	}
	return offered, nil
}

func readCatalog(files fs.FS) ([]definition, error) {
	paths, err := fs.Glob(files, "*.toml")
	if err != nil {
		return nil, fmt.Errorf("cannot list the kernel catalog: %w", err)
	}
	var definitions []definition
	for _, file := range paths {
		data, err := fs.ReadFile(files, file)
		if err != nil {
			return nil, fmt.Errorf("cannot read the kernel catalog: %w", err)
		}
		d := definition{name: strings.TrimSuffix(path.Base(file), ".toml")}
		if err := toml.NewDecoder(strings.NewReader(string(data))).DisallowUnknownFields().Decode(&d); err != nil {
			return nil, fmt.Errorf("cannot read %q of the kernel catalog: %w", file, err)
		}
		if err := d.check(); err != nil {
			return nil, fmt.Errorf("cannot use %q of the kernel catalog: %w", file, err)
		}
		definitions = append(definitions, d)
	}
	return definitions, nil
}

func (d definition) check() error {
	switch {
	case d.Description == "":
		return errors.New("it has no description")
	case d.Suite == "":
		return errors.New("it has no suite")
	case d.Package == "" || strings.Trim(d.Package, "abcdefghijklmnopqrstuvwxyz0123456789.+-") != "":
		return fmt.Errorf("%q is no name of a package", d.Package)
	case d.VersionPrefix == "":
		return errors.New("it has no version_prefix")
	}
	return nil
}

func names(definitions []definition) []string {
	names := make([]string, len(definitions))
	for i, d := range definitions {
		names[i] = d.name
	}
	return names
}
