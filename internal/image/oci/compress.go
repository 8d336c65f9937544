package oci

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"banger/internal/xz"
)

// decompress tells by its first bytes how a stream is compressed, if it is.
// What it returns must be closed, which does not close r.
func decompress(ctx context.Context, r io.Reader) (plain io.ReadCloser, compressed bool, err error) {
	in := bufio.NewReaderSize(r, 256<<10)
	head, err := in.Peek(6)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, false, err
	}
	switch {
	case bytes.HasPrefix(head, []byte{0x1f, 0x8b}):
		zr, err := gzip.NewReader(in)
		if err != nil {
			return nil, true, fmt.Errorf("cannot read gzip: %w", err)
		}
		return zr, true, nil
	case bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}), isSkippableFrame(head):
		zr, err := zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderLowmem(true))
		if err != nil {
			return nil, true, fmt.Errorf("cannot read zstd: %w", err)
		}
		return zr.IOReadCloser(), true, nil
	case bytes.HasPrefix(head, []byte{0xfd, '7', 'z', 'X', 'Z', 0}):
		xr, err := xz.NewReader(ctx, in)
		if err != nil {
			return nil, true, fmt.Errorf("cannot read xz: %w", err)
		}
		return xr, true, nil
	case bytes.HasPrefix(head, []byte("BZh")):
		return nil, true, errors.New("it is compressed with bzip2: pack it anew with gzip, zstd or xz")
	}
	return io.NopCloser(in), false, nil
}

// isSkippableFrame tells what some tools begin a zstd stream with.
func isSkippableFrame(head []byte) bool {
	return len(head) >= 4 && head[0]&0xf0 == 0x50 && bytes.Equal(head[1:4], []byte{0x2a, 0x4d, 0x18})
}
