package client

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	"banger/internal/api"
	"banger/internal/progress"
)

// cancelGrace bounds the wait for bangerd to undo a canceled operation.
const cancelGrace = time.Minute

// maxEvent bounds one line of a stream of events.
const maxEvent = 8 << 20

// CreateVM creates a VM, and starts it if asked. When ctx ends, bangerd undoes
// what was done, and CreateVM returns after that; if the operation was finished
// before bangerd heard of it, its result is returned without an error.
func (c *Client) CreateVM(ctx context.Context, create api.CreateVM, report progress.Func) (api.VM, error) {
	return follow[api.VM](ctx, c, "/v1/vms", create, report)
}

// StartVM returns when the guest answers. Canceled as [Client.CreateVM].
func (c *Client) StartVM(ctx context.Context, ref string, start api.StartVM, report progress.Func) (api.VM, error) {
	return follow[api.VM](ctx, c, vmPath(ref, "/start"), start, report)
}

// StopVM stops a VM cleanly, and kills it if that takes too long.
func (c *Client) StopVM(ctx context.Context, ref string, stop api.StopVM, report progress.Func) (api.VM, error) {
	return follow[api.VM](ctx, c, vmPath(ref, "/stop"), stop, report)
}

// ImportImage makes an image of a file or directory on this host.
func (c *Client) ImportImage(ctx context.Context, request api.Import, report progress.Func) (api.Image, error) {
	return follow[api.Image](ctx, c, "/v1/images/import", request, report)
}

// RegisterImage makes an image of a root file system on this host.
func (c *Client) RegisterImage(ctx context.Context, request api.Register, report progress.Func) (api.Image, error) {
	return follow[api.Image](ctx, c, "/v1/images/register", request, report)
}

// PullImage gets an image of the catalog, of a bundle or of a registry.
func (c *Client) PullImage(ctx context.Context, pull api.Pull, report progress.Func) (api.Image, error) {
	return follow[api.Image](ctx, c, "/v1/images/pull", pull, report)
}

// CommitVM makes an image of a VM's disk.
func (c *Client) CommitVM(ctx context.Context, ref string, request api.Commit, report progress.Func) (api.Image, error) {
	return follow[api.Image](ctx, c, vmPath(ref, "/commit"), request, report)
}

// AvailableImages are those in the store and in all catalogs.
func (c *Client) AvailableImages(ctx context.Context, report progress.Func) ([]api.Image, error) {
	return follow[[]api.Image](ctx, c, "/v1/images/available", struct{}{}, report)
}

// AvailableKernels are those in the store and in all catalogs.
func (c *Client) AvailableKernels(ctx context.Context, report progress.Func) ([]api.Kernel, error) {
	return follow[[]api.Kernel](ctx, c, "/v1/kernels/available", struct{}{}, report)
}

// ExportImage packs an image into a file.
func (c *Client) ExportImage(ctx context.Context, name string, request api.Export, report progress.Func) (api.Exported, error) {
	return follow[api.Exported](ctx, c, "/v1/images/"+url.PathEscape(name)+"/export", request, report)
}

// PullKernel gets a kernel of the catalog, or of a bundle.
func (c *Client) PullKernel(ctx context.Context, pull api.Pull, report progress.Func) (api.Kernel, error) {
	return follow[api.Kernel](ctx, c, "/v1/kernels/pull", pull, report)
}

// ImportKernel makes a kernel of a file or directory on this host.
func (c *Client) ImportKernel(ctx context.Context, request api.Import, report progress.Func) (api.Kernel, error) {
	return follow[api.Kernel](ctx, c, "/v1/kernels/import", request, report)
}

// ExportKernel packs a kernel into a file.
func (c *Client) ExportKernel(ctx context.Context, name string, request api.Export, report progress.Func) (api.Exported, error) {
	return follow[api.Exported](ctx, c, "/v1/kernels/"+url.PathEscape(name)+"/export", request, report)
}

// Ports the guest listens on.
func (c *Client) Ports(ctx context.Context, ref string) ([]api.Port, error) {
	return ask[[]api.Port](ctx, c, http.MethodGet, vmPath(ref, "/ports"), nil)
}

// follow posts a request and follows the operation to its end. Closing our
// half of the connection is what tells bangerd to cancel, so that the answer
// (undone, or done after all) can still be read.
func follow[T any](ctx context.Context, c *Client, path string, in any, report progress.Func) (T, error) {
	var result T
	err := c.events(ctx, path, in, report, &result)
	return result, err
}

func (c *Client) events(ctx context.Context, path string, in any, report progress.Func, result any) error {
	x, err := c.send(ctx, http.MethodPost, path, in, "", func(conn net.Conn) {
		half, ok := conn.(interface{ CloseWrite() error })
		if !ok || half.CloseWrite() != nil || conn.SetReadDeadline(time.Now().Add(cancelGrace)) != nil {
			conn.Close()
		}
	})
	if err != nil {
		return err
	}
	defer x.close()

	lines := bufio.NewScanner(x.resp.Body)
	lines.Buffer(nil, maxEvent)
	for lines.Scan() {
		if len(lines.Bytes()) == 0 {
			continue
		}
		var event api.Event
		if err := json.Unmarshal(lines.Bytes(), &event); err != nil {
			return fmt.Errorf("cannot understand bangerd's answer: %w", err)
		}
		switch {
		case event.Error != nil:
			if event.Error.Kind == api.KindCanceled && ctx.Err() != nil {
				return context.Cause(ctx)
			}
			return event.Error
		case event.Result != nil:
			if err := json.Unmarshal(event.Result, result); err != nil {
				return fmt.Errorf("cannot understand bangerd's answer: %w", err)
			}
			return nil
		case event.Progress != nil:
			report(*event.Progress)
		}
	}
	if err := lines.Err(); err != nil && errors.Is(err, bufio.ErrTooLong) {
		return fmt.Errorf("cannot understand bangerd's answer: %w", err)
	}
	return lost(ctx, io.ErrUnexpectedEOF)
}
