package configure

import (
	"bytes"
	"errors"
	"io/fs"
	"maps"
	"slices"
	"strings"

	"banger/internal/guest/rootfs"
)

const (
	environmentFile = "/etc/environment"
	// servicesFile gives systemd's services the same variables.
	servicesFile = "/etc/systemd/system.conf.d/50-banger-host.conf"
	// profileFile gives them to shells where there is no PAM to read the
	// first.
	profileFile = "/etc/profile.d/banger-host.sh"
)

const written = "# Written by banger at each start.\n"

// environment writes variables for commands, sessions and services. It reports
// whether what services get has changed.
func environment(root *rootfs.FS, variables map[string]string) (services bool, err error) {
	var lines, assignments, exports []string
	for _, k := range slices.Sorted(maps.Keys(variables)) {
		lines = append(lines, k+"="+variables[k])
		assignments = append(assignments, systemdQuote(k+"="+variables[k]))
		exports = append(exports, "export "+k+"="+shellQuote(variables[k]))
	}
	old, err := root.ReadFile(environmentFile, MaxFile)
	// Nothing to say, unless something was said before.
	if len(lines) > 0 || (err == nil && bytes.Contains(old, []byte(begin))) {
		if err := block(root, environmentFile, lines, 0o644, true); err != nil {
			return false, err
		}
	}
	if exists(root, "/etc/systemd") {
		if services, err = ours(root, servicesFile, "[Manager]\nDefaultEnvironment="+strings.Join(assignments, " ")+"\n", len(lines) > 0); err != nil {
			return false, err
		}
	}
	if exists(root, "/etc/profile.d") {
		_, err = ours(root, profileFile, strings.Join(exports, "\n")+"\n", len(lines) > 0 && !exists(root, "/etc/pam.d"))
		return services, err
	}
	return services, nil
}

// EnvironmentFile is relative to the root, and has what the host has passed on
// to one VM beside what is the image's or the user's: [WithoutInherited] is the
// rest of its content.
const EnvironmentFile = "etc/environment"

// WithoutInherited empties the part of a file that banger writes.
func WithoutInherited(content []byte) []byte {
	if !bytes.Contains(content, []byte(begin)) {
		return content
	}
	return mergeBlock(content, nil, true)
}

func exists(root *rootfs.FS, name string) bool {
	_, err := root.Stat(name)
	return err == nil
}

// ours writes a file that is banger's alone, or removes it. It reports whether
// that has changed anything.
func ours(root *rootfs.FS, name, content string, want bool) (changed bool, err error) {
	old, err := root.ReadFile(name, MaxFile)
	switch {
	case !want && errors.Is(err, fs.ErrNotExist):
		return false, nil
	case !want:
		return true, root.Remove(name)
	case err == nil && string(old) == written+content:
		return false, nil
	}
	return true, root.WriteFile(name, []byte(written+content), 0o644)
}

// systemdQuote writes an assignment as systemd reads it back: with escapes, and
// specifiers that begin with a percent sign.
func systemdQuote(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "%", "%%").Replace(s) + `"`
}

func shellQuote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
