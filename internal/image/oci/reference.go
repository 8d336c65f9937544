package oci

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
)

// IsReference tells whether a string names an image in a registry and not one
// of the catalog or the store, whose names have no '/', ':' or '@'. A path is none.
func IsReference(s string) bool {
	return strings.ContainsAny(s, "/:@") && !strings.HasPrefix(s, ".") && !strings.HasPrefix(s, "/")
}

// Reference is where an image is in a registry.
type Reference struct {
	ref name.Reference
}

// ParseReference reads [HOST[:PORT]/]REPOSITORY[:TAG][@DIGEST] as docker does.
// With insecure, the registry is spoken to without TLS if it has none.
func ParseReference(s string, insecure bool) (Reference, error) {
	options := []name.Option{name.WithDefaultTag("latest")}
	if insecure {
		options = append(options, name.Insecure)
	}
	ref, err := name.ParseReference(s, options...)
	if err != nil {
		return Reference{}, fmt.Errorf("%q is no reference to an image: %w", s, err)
	}
	return Reference{ref}, nil
}

// String is the reference in full.
func (r Reference) String() string { return r.ref.Name() }

// ImageName is what the image is called in the store, if nothing else is asked
// for: the repository, with its registry unless that is the default one, and
// the tag unless it is "latest" or the digest's begin.
func (r Reference) ImageName() string {
	repository := r.ref.Context().RepositoryStr()
	if registry := r.ref.Context().Registry; registry.RegistryStr() != name.DefaultRegistry {
		repository = registry.RegistryStr() + "/" + repository
	} else {
		repository = strings.TrimPrefix(repository, "library/")
	}
	const shortDigest = 12
	identifier := r.ref.Identifier()
	if digest, ok := strings.CutPrefix(identifier, sha256Prefix); ok {
		identifier = digest[:min(len(digest), shortDigest)]
	}
	if identifier != "latest" {
		repository += "-" + identifier
	}
	mapped := strings.Map(func(c rune) rune {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '.', c == '_', c == '-':
			return c
		}
		return '-'
	}, repository)
	const longest = 128
	return strings.TrimLeft(mapped[max(0, len(mapped)-longest):], "-._")
}

// isLoopback tells whether a host is this one, so that nobody listens between.
func isLoopback(host string) bool {
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	address, err := netip.ParseAddr(host)
	return err == nil && address.IsLoopback()
}
