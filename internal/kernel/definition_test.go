package kernel

import (
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

func TestCatalog(t *testing.T) {
	t.Parallel()
	definitions, err := definitions()
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(definitions, func(d definition) bool { return d.name == "debian-6.12" })
	if i < 0 {
		t.Fatalf("debian-6.12 is not in %+v", definitions)
	}
	// Without these no guest reaches its disks or its agent.
	for _, module := range []string{"virtio_mmio", "virtio_blk", "virtio_console", "ext4", "overlay"} {
		if !slices.Contains(definitions[i].BootModules, module) {
			t.Errorf("%s is not among the boot modules", module)
		}
	}
}

func TestReadCatalogRefuses(t *testing.T) {
	t.Parallel()
	const good = "description = 'd'\nsuite = 's'\npackage = 'p'\nversion_prefix = '6.'\nboot_modules = []\n"
	if _, err := readCatalog(fstest.MapFS{"k.toml": {Data: []byte(good)}}); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"unknown key":    good + "color = 'red'\n",
		"wrong type":     strings.Replace(good, "[]", "1", 1),
		"no suite":       strings.Replace(good, "'s'", "''", 1),
		"no description": strings.Replace(good, "'d'", "''", 1),
		"no prefix":      strings.Replace(good, "'6.'", "''", 1),
		"package escape": strings.Replace(good, "'p'", "'p; reboot'", 1),
		"no package":     strings.Replace(good, "'p'", "''", 1),
	} {
		if _, err := readCatalog(fstest.MapFS{"k.toml": {Data: []byte(text)}}); err == nil || !strings.Contains(err.Error(), "k.toml") {
			t.Errorf("%s: %v", name, err)
		}
	}
}
