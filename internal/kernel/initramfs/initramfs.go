// Package initramfs makes the first file system of a guest: the agent and the
// kernel modules that it needs to reach the disks.
//
//	/init             the agent's binary, mode 0755
//	/modules/list     the names of the modules' files, one a line, in the order in which they must be loaded
//	/modules/NN-X.ko  the modules, not compressed: ready for finit_module(2)
//	/dev/console      a device, for what is said before /dev is mounted
//	/dev /proc /sys /run /tmp /newroot   empty directories to mount on
//
// It is not compressed: on the one copy that a VMM makes in memory, unpacking
// costs more time than it saves, most of all without KVM.
package initramfs

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// Format changes whenever [Build] makes something else of the same files.
const Format = 1

// Paths in the initramfs.
const (
	// ModulesDir holds the modules and ModulesList names them.
	ModulesDir  = "/modules"
	ModulesList = "/modules/list"
	// NewRoot is an empty directory.
	NewRoot = "/newroot"
)

// Build writes an initramfs with the agent's binary and the modules, all given
// by their paths, the latter in the order in which they are to be loaded.
func Build(w io.Writer, agent string, modules []string) error {
	c := &cpioWriter{w: w}
	for _, dir := range []string{"dev", "proc", "sys", "run", "tmp", strings.TrimPrefix(NewRoot, "/"), "modules"} {
		if err := c.dir(dir); err != nil {
			return fmt.Errorf("cannot write the initramfs: %w", err)
		}
	}
	const consoleMajor, consoleMinor = 5, 1
	if err := c.entry("dev/console", typeChar|0o600, 0, nil, consoleMajor, consoleMinor); err != nil {
		return fmt.Errorf("cannot write the initramfs: %w", err)
	}
	var list strings.Builder
	for i, module := range modules {
		name := fmt.Sprintf("%02d-%s", i, filepath.Base(module))
		if err := c.file("modules/"+name, 0o644, module); err != nil {
			return fmt.Errorf("cannot put a module into the initramfs: %w", err)
		}
		list.WriteString(name + "\n")
	}
	if err := c.entry("modules/list", typeFile|0o644, int64(list.Len()), strings.NewReader(list.String()), 0, 0); err != nil {
		return fmt.Errorf("cannot write the initramfs: %w", err)
	}
	if err := c.file("init", 0o755, agent); err != nil {
		return fmt.Errorf("cannot put the agent into the initramfs: %w", err)
	}
	if err := c.end(); err != nil {
		return fmt.Errorf("cannot write the initramfs: %w", err)
	}
	return nil
}

// file copies a regular file into the archive.
func (c *cpioWriter) file(name string, perm uint32, path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%q is not a regular file", path)
	}
	return c.entry(name, typeFile|perm, info.Size(), file, 0, 0)
}
