package kernel

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"path"
	"slices"
	"strings"
)

// moduleName is the name that a module of this file has: file names may have a
// '-' where the kernel always has a '_'.
func moduleName(file string) string {
	return strings.ReplaceAll(strings.TrimSuffix(path.Base(file), ".ko"), "-", "_")
}

// moduleSet is what a kernel has of modules.
type moduleSet struct {
	builtin map[string]bool     // by name
	files   map[string]string   // by name
	needs   map[string][]string // by file
}

// parseModules reads depmod's modules.dep and modules.builtin.
func parseModules(dependencies, builtin []byte) (moduleSet, error) {
	m := moduleSet{builtin: make(map[string]bool), files: make(map[string]string), needs: make(map[string][]string)}
	for line := range strings.Lines(string(builtin)) {
		if file := strings.TrimSpace(line); file != "" {
			m.builtin[moduleName(file)] = true
		}
	}
	for line := range strings.Lines(string(dependencies)) {
		file, rest, ok := strings.Cut(line, ":")
		if !ok {
			return m, fmt.Errorf("modules.dep has the line %q", line)
		}
		if path.Ext(file) != ".ko" {
			return m, fmt.Errorf("modules.dep has a module called %q", file)
		}
		m.needs[file] = strings.Fields(rest)
		m.files[moduleName(file)] = file
	}
	return m, nil
}

// has tells whether a module of that name is there or built in.
func (m moduleSet) has(name string) bool {
	_, ok := m.files[moduleName(name)]
	return ok || m.builtin[moduleName(name)]
}

// loadOrder returns the files of the modules with these names and of all that
// they depend on, so that each comes after those it depends on. What is built
// in is left out.
func (m moduleSet) loadOrder(names []string) ([]string, error) {
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
		list, ok := m.needs[file]
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
		if m.builtin[name] {
			continue
		}
		file, ok := m.files[name]
		if !ok {
			return nil, fmt.Errorf("the kernel has no module %q, built in or not", name)
		}
		if err := visit(file); err != nil {
			return nil, err
		}
	}
	return order, nil
}

// signatureMagic ends a signed module, and signatureInfo is the length of the
// struct module_signature before that.
const (
	signatureMagic = "~Module signature appended~\n"
	signatureInfo  = 12
)

// withoutSignature returns a module without the signature at its end. What
// vouches for it is the signed archive that it came from. A guest's kernel, for
// which signatures are not mandatory, checks one that it sees, by far the most
// of what loading takes: without KVM about 50 ms a module.
func withoutSignature(module []byte) []byte {
	signed, ok := bytes.CutSuffix(module, []byte(signatureMagic))
	if !ok || len(signed) < signatureInfo {
		return module
	}
	info := signed[len(signed)-signatureInfo:]
	length := signatureInfo + int64(info[3]) + int64(info[4]) + int64(binary.BigEndian.Uint32(info[8:]))
	if length > int64(len(signed)) {
		return module
	}
	return signed[:int64(len(signed))-length]
}
