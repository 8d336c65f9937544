package tree_test

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"banger/internal/guest/configure"
	"banger/internal/guest/rootfs"
	"banger/internal/guest/tree"
)

func TestPackSystem(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		path := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{
		"etc/machine-id": "0123", "etc/ssh/ssh_host_ed25519_key": "secret", "etc/ssh/ssh_host_ed25519_key.pub": "x", "etc/ssh/sshd_config": "config",
		"root/.ssh/authorized_keys": "key", "root/.profile": "profile", "tmp/x": "x", "run/x": "x", "usr/bin/tool": "tool", "var/lib/systemd/random-seed": "seed",
		"etc/environment": "MINE=1\n# begin banger\nhttp_proxy=http://user:secret@host\n# end banger\nLAST=1\n",
		"etc/systemd/system.conf.d/50-banger-host.conf": "secret", "etc/profile.d/banger-host.sh": "secret",
		"etc/banger/host-certificates.pem": "HOST\n", "usr/local/share/ca-certificates/banger-host-11.crt": "HOST\n", "usr/local/share/ca-certificates/mine.crt": "MINE\n",
		"etc/ssl/certs/ca-certificates.crt": "IMAGE\nHOST\nMINE\n", "srv/banger-host-notes": "notes",
	} {
		write(name, text)
	}
	attributes := true
	if err := unix.Setxattr(filepath.Join(dir, "usr/bin/tool"), "user.test", []byte("value\x00"), 0); err != nil {
		attributes = false
		t.Logf("attributes are not tested: %v", err)
	}
	for link, target := range map[string]string{
		"etc/ssl/certs/banger-host-11.pem": "/usr/local/share/ca-certificates/banger-host-11.crt", "etc/ssl/certs/aaaaaaaa.0": "banger-host-11.pem", "etc/ssl/certs/bbbbbbbb.0": "mine.pem",
	} {
		if err := os.Symlink(target, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.Link(filepath.Join(dir, "usr/bin/tool"), filepath.Join(dir, "usr/bin/same")), os.Symlink("usr/bin", filepath.Join(dir, "bin"))); err != nil {
		t.Fatal(err)
	}
	system, err := rootfs.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer system.Close()
	host, err := configure.FindHostCertificates(system)
	if err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	var buf bytes.Buffer
	if err := tree.PackSystem(root, "root", host, &buf); err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	for r := tar.NewReader(&buf); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		found[h.Name] = string(data) + h.Linkname
		if value := h.PAXRecords["SCHILY.xattr.user.test"]; attributes && h.Typeflag == tar.TypeReg && string(data) == "tool" && value != "value\x00" {
			t.Errorf("%s has the attribute %q", h.Name, value)
		}
	}
	for name, want := range map[string]string{
		"./": "", "etc/machine-id": "", "etc/environment": "MINE=1\n# begin banger\n# end banger\nLAST=1\n", "etc/ssh/sshd_config": "config", "root/.profile": "profile", "root/.ssh/": "", "tmp/": "", "run/": "", "bin": "usr/bin",
		"etc/ssl/certs/ca-certificates.crt": "IMAGE\nMINE\n", "etc/ssl/certs/bbbbbbbb.0": "mine.pem", "usr/local/share/ca-certificates/mine.crt": "MINE\n", "srv/banger-host-notes": "notes",
	} {
		if got, ok := found[name]; !ok || got != want {
			t.Errorf("%s: %q, %v, want %q", name, got, ok, want)
		}
	}
	for _, name := range []string{"etc/ssh/ssh_host_ed25519_key", "etc/ssh/ssh_host_ed25519_key.pub", "root/.ssh/authorized_keys", "tmp/x", "run/x", "var/lib/systemd/random-seed", "etc/systemd/system.conf.d/50-banger-host.conf", "etc/profile.d/banger-host.sh", "etc/banger/host-certificates.pem", "usr/local/share/ca-certificates/banger-host-11.crt", "etc/ssl/certs/banger-host-11.pem", "etc/ssl/certs/aaaaaaaa.0"} {
		if _, ok := found[name]; ok {
			t.Errorf("%s is there", name)
		}
	}
	if one, two := found["usr/bin/tool"], found["usr/bin/same"]; one+two != "toolusr/bin/same" && one+two != "usr/bin/sametool" && one+two != "toolusr/bin/tool" && one+two != "usr/bin/tooltool" {
		t.Errorf("hard links: %q, %q", one, two)
	}
}
