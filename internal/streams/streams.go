// Package streams watches what is read: that it ends with what it is for, how
// far it is, and that it is not more than it may be.
package streams

import (
	"context"
	"fmt"
	"io"

	"banger/internal/progress"
)

// Until returns a reader of r that fails as soon as ctx has ended.
func Until(ctx context.Context, r io.Reader) io.Reader { return &reader{ctx, r} }

type reader struct {
	ctx context.Context
	r   io.Reader
}

func (r *reader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}

// ReadAll reads what has at most limit bytes; that it has more is an error.
func ReadAll(r io.Reader, limit int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("it has more than %d bytes", limit)
	}
	return data, err
}

// Counter reports how much has been written to it.
type Counter struct {
	Text   string
	Total  int64 // 0 if it is not known
	Report progress.Func

	done, shown int64
}

// Write never fails.
func (c *Counter) Write(p []byte) (int, error) {
	const often = 8 << 20
	c.done += int64(len(p))
	if c.done-c.shown >= often {
		c.shown = c.done
		c.Report(progress.Event{Text: c.Text, Done: c.done, Total: c.Total, Bytes: true})
	}
	return len(p), nil
}
