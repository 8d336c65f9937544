// Package configure makes a blank guest a certain VM: files in its root, and
// the kernel's name, clock, entropy and network. Everything is idempotent.
package configure

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"banger/internal/agent/wire"
	"banger/internal/guest/rootfs"
)

// Check refuses a configuration that cannot be applied.
func Check(c wire.Configuration) error {
	if !isName(c.Hostname) {
		return bad("hostname", c.Hostname)
	}
	if b, err := hex.DecodeString(c.MachineID); err != nil || len(b) != 16 {
		return bad("machine id", c.MachineID)
	}
	for _, d := range c.DNS {
		if _, err := netip.ParseAddr(d); err != nil {
			return bad("DNS server", d)
		}
	}
	for _, h := range c.Hosts {
		if _, err := netip.ParseAddr(h.Address); err != nil {
			return bad("address of a host", h.Address)
		}
		if !isName(h.Name) {
			return bad("name of a host", h.Name)
		}
	}
	for _, k := range c.AuthorizedKeys {
		if strings.ContainsAny(k, "\r\n\x00") || strings.TrimSpace(k) == "" {
			return bad("authorized key", k)
		}
	}
	for _, k := range c.HostKeys {
		if k.Type == "" || strings.ContainsFunc(k.Type, func(r rune) bool { return (r < 'a' || r > 'z') && (r < '0' || r > '9') }) {
			return bad("host key type", k.Type)
		}
	}
	for k, v := range c.Environment {
		if k == "" || strings.ContainsAny(k, "=#'\" \t\r\n\x00") || strings.ContainsAny(v, "\r\n\x00") {
			return bad("environment variable", k)
		}
	}
	for _, cert := range c.Certificates {
		if !isHex(cert.ID) || cert.ID == "" || (cert.SubjectHash != "" && len(cert.SubjectHash) != 8) || !isHex(cert.SubjectHash) {
			return bad("id of a certificate", cert.ID+" "+cert.SubjectHash)
		}
	}
	if c.Interface != nil {
		if _, err := parseInterface(*c.Interface); err != nil {
			return err
		}
	}
	return nil
}

func bad(what, value string) error {
	return &wire.Error{Kind: wire.ErrBadRequest, Message: fmt.Sprintf("cannot configure the guest: bad %s %q", what, value)}
}

func isHex(s string) bool { return strings.Trim(s, "0123456789abcdef") == "" }

// isName says whether s is a host name: labels of letters, digits and hyphens.
func isName(s string) bool {
	if s == "" || len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 || strings.HasPrefix(label, "-") || strings.HasSuffix(label, "-") {
			return false
		}
		for _, r := range label {
			if (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' {
				return false
			}
		}
	}
	return true
}

// Files writes what belongs into the root. It reports whether the environment
// of services has changed, which an init that runs has to be told.
func Files(root *rootfs.FS, c wire.Configuration) (services bool, err error) {
	steps := []func() error{
		func() error { return root.WriteFile("/etc/hostname", []byte(c.Hostname+"\n"), 0o644) },
		func() error { return root.WriteFile("/etc/machine-id", []byte(c.MachineID+"\n"), 0o444) },
		func() error { return hosts(root, c) },
		func() error { return resolvConf(root, c) },
		func() error {
			variables, err := certificates(root, c)
			if err != nil {
				return err
			}
			maps.Copy(variables, c.Environment)
			services, err = environment(root, variables)
			return err
		},
		func() error { return authorizedKeys(root, c) },
		func() error { return hostKeys(root, c) },
	}
	for _, step := range steps {
		if err := step(); err != nil {
			return false, fmt.Errorf("cannot configure the guest: %w", err)
		}
	}
	return services, nil
}

const (
	begin = "# begin banger"
	end   = "# end banger"
)

// MaxFile bounds the files whose other lines are kept, in bytes: a longer one is
// none that banger has written to.
const MaxFile = 4 << 20

// block puts lines between two marks into a file, in place of those that are
// there, and keeps what the guest's user has written around them. Without the
// marks it takes the file for the image's own: kept if keep is set.
func block(root *rootfs.FS, name string, lines []string, perm fs.FileMode, keep bool) error {
	old, err := root.ReadFile(name, MaxFile)
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ELOOP) {
		return err
	}
	return root.WriteFile(name, mergeBlock(old, lines, keep), perm)
}

func mergeBlock(old []byte, lines []string, keep bool) []byte {
	var before, after []string
	found, inside := false, false
	for line := range strings.Lines(string(old)) {
		line = strings.TrimSuffix(line, "\n")
		switch {
		case !inside && !found && line == begin:
			found, inside = true, true
		case inside && line == end:
			inside = false
		case inside:
		case found:
			after = append(after, line)
		default:
			before = append(before, line)
		}
	}
	if !found && !keep {
		before = nil
	}
	var b bytes.Buffer
	for _, line := range slices.Concat(before, []string{begin}, lines, []string{end}, after) {
		b.WriteString(line)
		b.WriteByte('\n')
	}
	return b.Bytes()
}

func hosts(root *rootfs.FS, c wire.Configuration) error {
	lines := []string{
		"127.0.0.1 localhost",
		"::1 localhost ip6-localhost ip6-loopback",
	}
	// Its own name must resolve without a network, to the address others use.
	own := "127.0.1.1"
	if c.Interface != nil {
		if p, err := netip.ParsePrefix(c.Interface.Address); err == nil {
			own = p.Addr().String()
		}
	}
	lines = append(lines, own+" "+c.Hostname)
	for _, h := range c.Hosts {
		lines = append(lines, h.Address+" "+h.Name)
	}
	return block(root, "/etc/hosts", lines, 0o644, false)
}

func resolvConf(root *rootfs.FS, c wire.Configuration) error {
	if len(c.DNS) == 0 {
		return nil
	}
	var b strings.Builder
	b.WriteString("# Written by banger at each start.\n")
	for _, d := range c.DNS {
		b.WriteString("nameserver " + d + "\n")
	}
	return root.WriteFile("/etc/resolv.conf", []byte(b.String()), 0o644)
}

const home = "/root"

// authorizedKeys makes the host's keys the only ones that the image does not
// have a say in, with owners and modes that sshd's StrictModes accepts.
func authorizedKeys(root *rootfs.FS, c wire.Configuration) error {
	if err := private(root, home, false); err != nil {
		return err
	}
	ssh := path.Join(home, ".ssh")
	if len(c.AuthorizedKeys) == 0 {
		if _, err := root.Stat(ssh); errors.Is(err, fs.ErrNotExist) {
			return nil
		}
	}
	if err := private(root, ssh, true); err != nil {
		return err
	}
	return block(root, path.Join(ssh, "authorized_keys"), c.AuthorizedKeys, 0o600, false)
}

// private makes a directory the caller's, and not writable by others; with
// hide not readable either.
func private(root *rootfs.FS, name string, hide bool) error {
	made, err := root.MkdirAll(name, 0o700)
	if err != nil {
		return err
	}
	made.Close()
	dir, err := root.OpenFile(name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer dir.Close()
	info, err := dir.Stat()
	if err != nil {
		return err
	}
	if os.Geteuid() == 0 {
		if err := dir.Chown(0, 0); err != nil {
			return err
		}
	}
	mode := info.Mode().Perm() &^ 0o022
	if hide {
		mode = 0o700
	}
	return dir.Chmod(mode)
}

func hostKeys(root *rootfs.FS, c wire.Configuration) error {
	for _, k := range c.HostKeys {
		name := "/etc/ssh/ssh_host_" + k.Type + "_key"
		if err := root.WriteFile(name, []byte(withNewline(k.Private)), 0o600); err != nil {
			return err
		}
		if err := root.WriteFile(name+".pub", []byte(withNewline(k.Public)), 0o644); err != nil {
			return err
		}
	}
	return nil
}

func withNewline(s string) string {
	if strings.HasSuffix(s, "\n") {
		return s
	}
	return s + "\n"
}
