package internal

import (
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "banger/internal/"

// leaves are data, or know nothing of VMs: everything may import them.
var leaves = []string{"api", "agent/wire", "progress", "undo", "paths", "size", "tomlfile", "config", "version", "atomicfile", "regular", "confine", "excerpt", "pipe", "xz", "streams", "leftout", "network/policy", "space", "tool", "tempfile", "sparse", "ext4"}

// allowed are the other packages below internal that a layer may import. A
// layer is a package and all that is below it, which may import each other.
// What is not named here imports leaves only.
var allowed = map[string][]string{
	"agent":   nil,
	"api":     {"vmm"}, // handles are part of what a VM is
	"bundle":  {"objects", "download", "catalog"},
	"catalog": {"objects", "download"},
	"cli":     {"client", "agent", "doctor", "network", "ssh", "sshconfig", "workspace", "hostenv", "recipe", "objects"}, // network: what root does has no daemon; objects: their names
	"client":  nil,
	"daemon":  {"vm", "store", "image", "kernel", "bundle", "vmm", "network", "ssh", "doctor", "agent", "hostenv"},
	"debian":  nil,
	"disk":    nil,
	"doctor":  {"disk", "image", "kernel", "store", "vmm", "network", "ssh", "sshconfig", "hostenv"},
	"guest":   {"agent"},
	"image":   {"debian", "objects", "bundle", "catalog", "disk"},
	"kernel":  {"debian", "objects", "bundle", "catalog"},
	"network": {"vmm", "agent"}, // vmm/process runs it; ports go through the agent
	"store":   {"vmm"},          // a record has a handle
	"vm":      {"vmm", "image", "kernel", "disk", "network", "agent", "store", "filesync", "hostenv"},
	"vmm":     {"agent"}, // the channel's multiplexer
}

// TestImportsPointDown holds the layers of docs/architecture.md.
func TestImportsPointDown(t *testing.T) {
	t.Parallel()
	seen := 0
	err := filepath.WalkDir(".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		if file.Name.Name == "main" { // a program, which nothing imports
			return nil
		}
		from := filepath.ToSlash(filepath.Dir(path))
		for _, spec := range file.Imports {
			imported, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				return err
			}
			to, ok := strings.CutPrefix(imported, module)
			if !ok || slices.Contains(leaves, to) {
				continue
			}
			seen++
			layer, target := top(from), top(to)
			if layer != target && !slices.Contains(allowed[layer], target) {
				t.Errorf("%s imports %s: %s must not know of %s", path, imported, layer, target)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if seen == 0 {
		t.Error("no import was looked at")
	}
}

// top is the layer of a package: its first element.
func top(path string) string {
	first, _, _ := strings.Cut(path, "/")
	return first
}
