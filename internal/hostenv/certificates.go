package hostenv

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"banger/internal/agent/wire"
	"banger/internal/regular"
)

const (
	// maxBundle bounds a file of certificates, in bytes: a distribution's
	// bundle has a quarter of a megabyte.
	maxBundle = 8 << 20
	// maxCertificates and maxAnchors bound what is passed, and the files
	// that are looked at.
	maxCertificates = 256
	maxAnchors      = 1024
)

// Where hosts keep certificates. What is missing is skipped.
var (
	// shipped is what Debian's ca-certificates package has. Where it is
	// missing, a bundle without the anchors is taken for the distribution's.
	shipped = "usr/share/ca-certificates/mozilla"
	// anchors are directories for what an administrator adds.
	anchors = []string{
		"usr/local/share/ca-certificates",          // Debian, Ubuntu, Alpine
		"etc/pki/ca-trust/source/anchors",          // Fedora, RHEL
		"etc/ca-certificates/trust-source/anchors", // Arch
		"etc/pki/trust/anchors",                    // openSUSE
		"usr/share/pki/trust/anchors",              // openSUSE
		"usr/share/pki/ca-trust-source/anchors",    // Fedora, RHEL
	}
	bundles = []string{
		"etc/ssl/certs/ca-certificates.crt",
		"etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
		"etc/ca-certificates/extracted/tls-ca-bundle.pem",
		"var/lib/ca-certificates/ca-bundle.pem",
	}
)

type fingerprint [sha256.Size]byte

// certificate is one of a file, in DER.
type certificate struct {
	der         []byte
	fingerprint fingerprint
	source      string
}

// Files remembers the certificates of the host's files, for as long as the files
// look the same, and those of the directory of which a distribution has hundreds,
// for as long as that does. The zero value is ready for use, by any goroutine.
type Files struct {
	mu    sync.Mutex
	known map[string]known // by path
	bytes int              // that were read for known
}

type known struct {
	id           regular.ID
	certificates []certificate
}

// maxKnown bounds what is remembered, in bytes.
const maxKnown = 2 * maxBundle

// read returns the certificates of a file in PEM, or the one of a file in DER.
func (f *Files) read(path string) ([]certificate, error) {
	if info, err := os.Stat(path); err == nil {
		f.mu.Lock()
		k, ok := f.known[path]
		f.mu.Unlock()
		if ok && k.id == regular.Identify(info) {
			return k.certificates, nil
		}
	}
	data, info, err := regular.Read(path, maxBundle)
	if err != nil {
		return nil, err
	}
	k := known{regular.Identify(info), parse(data, path)}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.bytes += len(path) + len(data)
	if f.known == nil || f.bytes > maxKnown {
		f.known, f.bytes = make(map[string]known), len(path)+len(data)
	}
	f.known[path] = k
	return k.certificates, nil
}

// directory returns what read finds in a directory whose files are replaced and
// not written to, as a distribution's package does it. complete says whether
// that is all there is: a file that cannot be read is looked at again.
func (f *Files) directory(path string, read func() (found []certificate, complete bool)) []certificate {
	info, err := os.Stat(path)
	if err != nil {
		found, _ := read() // which knows what to say
		return found
	}
	f.mu.Lock()
	k, ok := f.known[path]
	f.mu.Unlock()
	if ok && k.id == regular.Identify(info) {
		return k.certificates
	}
	found, complete := read()
	f.mu.Lock()
	defer f.mu.Unlock()
	// What has just changed could change once more without another time. Read
	// has made known, and bounds it.
	if complete && f.known != nil && time.Since(info.ModTime()) > time.Second {
		f.known[path] = known{regular.Identify(info), found}
	}
	return found
}

// certificates adds those that the host trusts beyond its distribution's own,
// or those of the files that the configuration names.
func (p *Passed) certificates(options Options, environment map[string]string) {
	files := options.Files
	if files == nil {
		files = new(Files)
	}
	var candidates []certificate
	own := map[fingerprint]bool{}
	switch {
	case options.Settings.CertificateFiles != nil:
		for _, path := range options.Settings.CertificateFiles {
			candidates = append(candidates, p.read(files, path)...)
		}
	case options.Settings.Certificates:
		candidates, own = p.beyond(files, options.Root, environment)
	}
	for _, c := range candidates {
		if own[c.fingerprint] {
			continue
		}
		own[c.fingerprint] = true
		if len(p.Certificates) == maxCertificates {
			p.warn("guests get %d CA certificates and no more, though this host has more", maxCertificates)
			return
		}
		parsed, err := x509.ParseCertificate(c.der)
		if err != nil {
			p.warn("guests do not get a certificate of %s: %v", c.source, err)
			continue
		}
		id := c.fingerprint
		p.Certificates = append(p.Certificates, wire.Certificate{
			ID: hex.EncodeToString(id[:8]), SubjectHash: subjectHash(parsed.RawSubject), Subject: subjectName(parsed),
			PEM: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.der})),
		})
	}
}

func subjectName(c *x509.Certificate) string {
	if c.Subject.CommonName != "" {
		return c.Subject.CommonName
	}
	return c.Subject.String()
}

// beyond returns what may be passed, and what the distribution has itself.
func (p *Passed) beyond(files *Files, root string, environment map[string]string) (candidates []certificate, own map[fingerprint]bool) {
	for _, dir := range anchors {
		candidates = append(candidates, p.walk(files, filepath.Join(root, dir))...)
	}
	added := len(candidates)
	own = map[fingerprint]bool{}
	dir := filepath.Join(root, shipped)
	for _, c := range files.directory(dir, func() ([]certificate, bool) {
		before := len(p.Warnings)
		found := p.walk(files, dir)
		return found, len(p.Warnings) == before
	}) {
		own[c.fingerprint] = true
	}
	known := len(own) > 0
	seen := map[string]bool{}
	for _, bundle := range bundles {
		path := filepath.Join(root, bundle)
		target, err := filepath.EvalSymlinks(path)
		if err != nil || seen[target] {
			continue
		}
		seen[target] = true
		for _, c := range p.read(files, path) {
			if known {
				candidates = append(candidates, c)
			} else {
				own[c.fingerprint] = true
			}
		}
	}
	if !known {
		for _, c := range candidates[:added] {
			delete(own, c.fingerprint)
		}
	}
	for _, name := range certificateVariables {
		path := environment[name]
		if path == "" {
			continue
		}
		if target, err := filepath.EvalSymlinks(path); err == nil {
			path = target
		}
		if !seen[path] {
			seen[path] = true
			candidates = append(candidates, p.read(files, path)...)
		}
	}
	return candidates, own
}

// walk reads all certificates below a directory that may be missing.
func (p *Passed) walk(files *Files, dir string) []certificate {
	var found []certificate
	count := 0
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir():
			return nil
		}
		if count++; count > maxAnchors {
			return fmt.Errorf("there are more than %d files", maxAnchors)
		}
		found = append(found, p.read(files, path)...)
		return nil
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		p.warn("guests do not get all certificates of %s: %v", dir, err)
	}
	return found
}

func (p *Passed) read(files *Files, path string) []certificate {
	found, err := files.read(path)
	if err != nil {
		p.warn("guests do not get the certificates of a file: %v", err)
	}
	return found
}

func parse(data []byte, path string) []certificate {
	var found []certificate
	add := func(der []byte) {
		found = append(found, certificate{der: der, fingerprint: sha256.Sum256(der), source: path})
	}
	for rest := data; ; {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		if strings.HasSuffix(block.Type, "CERTIFICATE") {
			add(block.Bytes)
		}
	}
	if found == nil && bytes.HasPrefix(data, []byte{0x30}) {
		add(data)
	}
	return found
}
