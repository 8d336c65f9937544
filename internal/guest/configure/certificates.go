package configure

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"

	"banger/internal/agent/wire"
	"banger/internal/guest/rootfs"
)

// store is where an image keeps the CA certificates that it trusts: all of them
// in one bundle, which its tools make out of those in anchors and of its own.
type store struct {
	bundle, anchors string
	// hashes is where OpenSSL looks for them one by one, empty if it reads
	// the bundle.
	hashes string
}

// stores of the distributions. The first whose bundle is there is it: others
// have links from where Debian has its own.
var stores = []store{
	{bundle: "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem", anchors: "/etc/pki/ca-trust/source/anchors"},            // Fedora, RHEL
	{bundle: "/etc/ca-certificates/extracted/tls-ca-bundle.pem", anchors: "/etc/ca-certificates/trust-source/anchors"},    // Arch
	{bundle: "/var/lib/ca-certificates/ca-bundle.pem", anchors: "/etc/pki/trust/anchors"},                                 // openSUSE
	{bundle: "/etc/ssl/certs/ca-certificates.crt", anchors: "/usr/local/share/ca-certificates", hashes: "/etc/ssl/certs"}, // Debian, Alpine
}

const (
	// anchorPrefix marks what banger has put into a store.
	anchorPrefix = "banger-host-"
	// hostBundle has the host's certificates alone.
	hostBundle = "/etc/banger/host-certificates.pem"
)

// certificates makes the guest trust the host's certificates, and no longer
// those of an earlier start: as its own tools would, but at once. The tools keep
// them when they run later. It returns the variables for programs that do not
// look into the system's store.
func certificates(root *rootfs.FS, c wire.Configuration) (variables map[string]string, err error) {
	variables = map[string]string{}
	var all strings.Builder
	for _, cert := range c.Certificates {
		all.WriteString(withNewline(cert.PEM))
	}
	if _, err := ours(root, hostBundle, all.String(), len(c.Certificates) > 0); err != nil {
		return nil, err
	}
	if len(c.Certificates) > 0 {
		variables["NODE_EXTRA_CA_CERTS"] = hostBundle // beside those that it has built in
	}
	s, ok := storeOf(root)
	if !ok {
		return variables, nil
	}
	if err := s.update(root, c.Certificates); err != nil {
		return nil, fmt.Errorf("cannot make the guest trust the host's certificates: %w", err)
	}
	if len(c.Certificates) > 0 {
		for _, name := range []string{"SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "PIP_CERT", "GIT_SSL_CAINFO"} {
			variables[name] = s.bundle
		}
	}
	return variables, nil
}

// storeOf returns the store that a root has, if it has one.
func storeOf(root *rootfs.FS) (store, bool) {
	for _, s := range stores {
		if exists(root, s.bundle) {
			return s, true
		}
	}
	return store{}, false
}

// HostCertificates are what a root trusts because its host does: one VM's.
type HostCertificates struct {
	store store
	certs map[string][]byte // by their file's name
}

// FindHostCertificates looks them up.
func FindHostCertificates(root *rootfs.FS) (HostCertificates, error) {
	s, ok := storeOf(root)
	if !ok {
		return HostCertificates{}, nil
	}
	certs, err := s.old(root)
	if err != nil {
		return HostCertificates{}, fmt.Errorf("cannot find the host's certificates: %w", err)
	}
	return HostCertificates{store: s, certs: certs}, nil
}

// Own tells whether a file or a link is there for them alone. Its name is
// relative to the root, and target is where a link leads.
func (h HostCertificates) Own(name, target string) bool {
	switch path.Dir("/" + name) {
	case h.store.hashes:
		return ofHost(target)
	case h.store.anchors:
		return ofHost(name)
	}
	return false
}

// Bundle is a file, relative to the root, that has them beside what is the
// image's or the user's; empty if there is none. [HostCertificates.Without] is
// the rest of its content.
func (h HostCertificates) Bundle() string { return strings.TrimPrefix(h.store.bundle, "/") }

// Without takes them out of a bundle.
func (h HostCertificates) Without(bundle []byte) []byte {
	for _, pem := range h.certs {
		bundle = bytes.ReplaceAll(bundle, pem, nil)
	}
	return bundle
}

// ofHost tells whether a path is that of a file which banger has put into a
// store.
func ofHost(name string) bool { return strings.HasPrefix(path.Base(name), anchorPrefix) }

// update brings a store from the certificates of an earlier start to these. The
// old anchors go last, and the bundle changes before them: what a crash leaves
// is put right by the next start.
func (s store) update(root *rootfs.FS, certs []wire.Certificate) error {
	old, err := s.old(root)
	if err != nil || (len(old) == 0 && len(certs) == 0) {
		return err
	}
	bundle, err := root.ReadFile(s.bundle, MaxFile)
	if err != nil {
		return err
	}
	content, same := HostCertificates{s, old}.Without(bundle), len(old) == len(certs)
	anchors := map[string]bool{}
	for _, cert := range certs {
		name, pem := anchorPrefix+cert.ID+".crt", []byte(withNewline(cert.PEM))
		anchors[name] = true
		content = append(bytes.ReplaceAll(content, pem, nil), pem...)
		if bytes.Equal(old[name], pem) {
			continue
		}
		same = false
		if err := root.WriteFile(path.Join(s.anchors, name), pem, 0o644); err != nil {
			return err
		}
	}
	if same && bytes.Equal(content, bundle) {
		return nil
	}
	if s.hashes != "" {
		if err := s.link(root, certs); err != nil {
			return err
		}
	}
	if err := root.WriteFile(s.bundle, content, 0o644); err != nil {
		return err
	}
	for name := range old {
		if !anchors[name] {
			if err := root.Remove(path.Join(s.anchors, name)); err != nil {
				return err
			}
		}
	}
	return nil
}

// old returns the certificates of an earlier start, by their file's name.
func (s store) old(root *rootfs.FS) (map[string][]byte, error) {
	names, err := namesIn(root, s.anchors)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	old := map[string][]byte{}
	for _, name := range names {
		if !ofHost(name) {
			continue
		}
		pem, err := root.ReadFile(path.Join(s.anchors, name), MaxFile)
		if err != nil {
			return nil, err
		}
		if len(pem) > 0 {
			old[name] = pem
		}
	}
	return old, nil
}

func namesIn(root *rootfs.FS, name string) ([]string, error) {
	dir, err := root.OpenFile(name, os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	return dir.Readdirnames(-1)
}

// link makes the links by which OpenSSL finds certificates one by one, in place
// of those of an earlier start.
func (s store) link(root *rootfs.FS, certs []wire.Certificate) error {
	names, err := namesIn(root, s.hashes)
	if err != nil {
		return err
	}
	dir, err := root.Root(s.hashes)
	if err != nil {
		return err
	}
	defer dir.Close()
	taken := map[string]bool{}
	for _, name := range names {
		target, err := dir.Readlink(name)
		if err != nil {
			target = "" // no link
		}
		if !ofHost(target) {
			taken[name] = true
			continue
		}
		if err := dir.Remove(name); err != nil {
			return err
		}
	}
	for _, cert := range certs {
		link := anchorPrefix + cert.ID + ".pem"
		if taken[link] {
			continue // the guest's user has made something else of it
		}
		if err := dir.Symlink(path.Join(s.anchors, anchorPrefix+cert.ID+".crt"), link); err != nil {
			return err
		}
		if cert.SubjectHash == "" {
			continue
		}
		n := 0
		for taken[cert.SubjectHash+"."+strconv.Itoa(n)] {
			n++
		}
		hash := cert.SubjectHash + "." + strconv.Itoa(n)
		taken[hash] = true
		if err := dir.Symlink(link, hash); err != nil {
			return err
		}
	}
	return nil
}
