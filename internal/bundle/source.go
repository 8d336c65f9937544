package bundle

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"strings"

	"banger/internal/download"
	"banger/internal/regular"
)

// IsURL tells whether a location is not a file on this host.
func IsURL(location string) bool {
	return strings.HasPrefix(location, "https://") || strings.HasPrefix(location, "http://")
}

// pathOf is the path that a location ends with.
func pathOf(location string) string {
	if address, err := url.Parse(location); err == nil && IsURL(location) {
		return address.Path
	}
	return location
}

// open returns the bundle, and how long it is or -1.
func (r Request) open(ctx context.Context) (io.ReadCloser, int64, error) {
	if IsURL(r.Location) {
		return download.Open(ctx, r.Location, r.Insecure)
	}
	file, info, err := regular.Open(r.Location)
	if errors.Is(err, regular.ErrKind) {
		return nil, 0, fmt.Errorf("%w: it is not a file", ErrNoBundle)
	}
	if err != nil {
		return nil, 0, err
	}
	return file, info.Size(), nil
}

// signature returns what [trust] is to look at, nil if there is none.
func (r Request) signature(ctx context.Context) ([]byte, error) {
	if r.Untrusted {
		return nil, nil
	}
	read := readSignature
	if IsURL(r.Location) {
		read = r.downloadSignature
	}
	data, err := read(ctx, r.Location)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read its signature: %w", err)
	}
	return data, nil
}

func readSignature(_ context.Context, path string) ([]byte, error) {
	data, _, err := regular.Read(path+SignatureExtension, maxSignature)
	if errors.Is(err, regular.ErrSize) {
		return nil, errors.New("it is too long to be one")
	}
	return data, err
}

func (r Request) downloadSignature(ctx context.Context, location string) ([]byte, error) {
	address, err := url.Parse(location)
	if err != nil {
		return nil, err
	}
	address.Path, address.RawPath = address.Path+SignatureExtension, ""
	return download.Read(ctx, address.String(), r.Insecure, maxSignature)
}
