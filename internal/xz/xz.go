// Package xz decompresses with the program of that name: it has all filters,
// and can be told how much memory it may take, which a file decides otherwise.
package xz

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"

	"banger/internal/api"
	"banger/internal/pipe"
)

// maxMemory is enough for a dictionary of 128 MiB; `xz -9` makes one of 64 MiB.
const maxMemory = 160 << 20

// NewReader returns what was compressed; it must be closed. For what is behind
// the end of ctx and in, see [pipe.Open]. Options are more of the program's own.
func NewReader(ctx context.Context, in io.Reader, options ...string) (io.ReadCloser, error) {
	options = append([]string{
		"--decompress", "--stdout", "--format=xz", "--quiet", "--threads=1", fmt.Sprintf("--memlimit-decompress=%d", maxMemory),
	}, options...)
	r, err := pipe.Open(ctx, in, "xz", options...)
	if errors.Is(err, exec.ErrNotFound) {
		return nil, &api.Error{Kind: api.KindState, Message: "cannot unpack xz: this machine lacks xz-utils", Hint: "sudo apt-get install xz-utils"}
	}
	return r, err
}
