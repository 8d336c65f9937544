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
	for _, s := range stores {
		if !exists(root, s.bundle) {
			continue
		}
		if err := s.update(root, c.Certificates); err != nil {
			return nil, fmt.Errorf("cannot make the guest trust the host's certificates: %w", err)
		}
		if len(c.Certificates) > 0 {
			for _, name := range []string{"SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "PIP_CERT", "GIT_SSL_CAINFO"} {
				variables[name] = s.bundle
			}
		}
		break
	}
	return variables, nil
}

// update brings a store from the certificates of an earlier start to these. The
// old anchors go last, and the bundle changes before them: what a crash leaves
// is put right by the next start.
func (s store) update(root *rootfs.FS, certs []wire.Certificate) error {
	old, err := s.old(root)
	if err != nil || (len(old) == 0 && len(certs) == 0) {
		return err
	}
	bundle, err := root.ReadFile(s.bundle, maxFile)
	if err != nil {
		return err
	}
	content, same := bundle, len(old) == len(certs)
	for _, pem := range old {
		content = bytes.ReplaceAll(content, pem, nil)
	}
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
		if !strings.HasPrefix(name, anchorPrefix) {
			continue
		}
		pem, err := root.ReadFile(path.Join(s.anchors, name), maxFile)
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
		if !strings.HasPrefix(path.Base(target), anchorPrefix) {
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
