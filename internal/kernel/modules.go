package kernel

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// moduleName is the name that a module of this file has: file names may have a
// '-' where the kernel always has a '_'.
func moduleName(file string) string {
	name, _, _ := strings.Cut(path.Base(file), ".ko")
	return strings.ReplaceAll(name, "-", "_")
}

// loadOrder returns the files of the modules with these names and of all that
// they depend on, so that each comes after those it depends on. What is built
// in is left out. Dependencies and builtin are depmod's modules.dep and
// modules.builtin.
func loadOrder(names []string, dependencies, builtin []byte) ([]string, error) {
	known := make(map[string]bool)
	for line := range strings.Lines(string(builtin)) {
		if file := strings.TrimSpace(line); file != "" {
			known[moduleName(file)] = true
		}
	}
	needs := make(map[string][]string) // by file
	files := make(map[string]string)   // by name
	for line := range strings.Lines(string(dependencies)) {
		file, rest, ok := strings.Cut(line, ":")
		if !ok {
			return nil, fmt.Errorf("modules.dep has the line %q", line)
		}
		if !strings.Contains(path.Base(file), ".ko") {
			return nil, fmt.Errorf("modules.dep has a module called %q", file)
		}
		needs[file] = strings.Fields(rest)
		files[moduleName(file)] = file
	}
	var order []string
	const (
		visiting = 1
		visited  = 2
	)
	state := make(map[string]int)
	var visit func(file string) error
	visit = func(file string) error {
		switch state[file] {
		case visiting:
			return fmt.Errorf("modules.dep lets %q depend on itself", file)
		case visited:
			return nil
		}
		state[file] = visiting
		list, ok := needs[file]
		if !ok {
			return fmt.Errorf("modules.dep does not have %q, which another module needs", file)
		}
		// depmod puts what has to be loaded first last.
		for _, needed := range slices.Backward(list) {
			if err := visit(needed); err != nil {
				return err
			}
		}
		state[file] = visited
		order = append(order, file)
		return nil
	}
	for _, name := range names {
		name = moduleName(name)
		if known[name] {
			continue
		}
		file, ok := files[name]
		if !ok {
			return nil, fmt.Errorf("the kernel has no module %q, built in or not", name)
		}
		if err := visit(file); err != nil {
			return nil, err
		}
	}
	return order, nil
}

// decompress unpacks a module's file, which may have at most limit bytes then,
// and returns it with its name without the suffix of a compression.
func decompress(data []byte, name string, limit int64) ([]byte, string, error) {
	var (
		reader io.Reader
		err    error
		base   = name[:len(name)-len(path.Ext(name))]
	)
	switch path.Ext(name) {
	case ".ko":
		reader, base = bytes.NewReader(data), name
	case ".xz":
		reader, err = xz.ReaderConfig{DictCap: maxModule}.NewReader(bytes.NewReader(data))
	case ".gz":
		reader, err = gzip.NewReader(bytes.NewReader(data))
	case ".zst":
		decoder, zstdErr := zstd.NewReader(bytes.NewReader(data), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxModule))
		if zstdErr == nil {
			defer decoder.Close()
		}
		reader, err = decoder, zstdErr
	default:
		err = fmt.Errorf("the compression of %q is not known", name)
	}
	if err != nil {
		return nil, name, err
	}
	if path.Ext(base) != ".ko" {
		return nil, name, fmt.Errorf("%q is no module", name)
	}
	out, err := readAll(reader, limit)
	if err == nil && !bytes.HasPrefix(out, []byte("\x7fELF")) {
		err = errors.New("it is no ELF file")
	}
	return out, base, err
}
