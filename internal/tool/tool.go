// Package tool finds the programs of this host that banger runs.
package tool

import (
	"os/exec"
	"path/filepath"
)

// Find returns the path of a program, as [exec.LookPath] does. It looks where
// administrators' programs are too, to which an ordinary user's PATH does not
// lead on Debian.
func Find(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err == nil {
		return path, nil
	}
	for _, dir := range []string{"/usr/sbin", "/sbin"} {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path, nil
		}
	}
	return "", err
}
