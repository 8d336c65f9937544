package boot

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// loadModules loads the modules named in dir/list, in its order: one file name
// of dir a line. A kernel that has everything built in has no list.
func loadModules(dir string) error {
	list, err := os.ReadFile(filepath.Join(dir, "list"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot read the list of modules: %w", err)
	}
	for _, name := range parseModules(list) {
		if err := loadModule(filepath.Join(dir, name)); err != nil {
			return fmt.Errorf("cannot load the kernel module %q: %w", name, err)
		}
	}
	return nil
}

func parseModules(list []byte) []string {
	var names []string
	for s := bufio.NewScanner(bytes.NewReader(list)); s.Scan(); {
		if name := strings.TrimSpace(s.Text()); name != "" && !strings.HasPrefix(name, "#") {
			names = append(names, filepath.Base(name))
		}
	}
	return names
}

func loadModule(name string) error {
	file, err := os.Open(name)
	if err != nil {
		return err
	}
	defer file.Close()
	err = unix.FinitModule(int(file.Fd()), "", 0)
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	return err
}
