// Package client talks to bangerd over its unix socket, and starts it when it
// is needed.
package client

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"syscall"
	"time"

	"banger/internal/api"
)

// ErrNotRunning is what every call returns (wrapped) when nothing answers on
// the socket.
var ErrNotRunning = errors.New("bangerd is not running")

// maxAnswer bounds a JSON answer: far above what a daemon with thousands of
// VMs sends.
const maxAnswer = 64 << 20

// Client calls bangerd. Each call is a connection of its own, so a Client
// needs no closing and may be used from any goroutine. Errors that bangerd
// answers are *[api.Error]; it is also what a call returns when bangerd goes
// away in its middle.
type Client struct {
	// Socket is the path of bangerd's socket.
	Socket string
	// Dial connects to it; nil means a checked connection to Socket.
	Dial func(ctx context.Context) (net.Conn, error)
}

// New returns a client of the daemon that listens on socket.
func New(socket string) *Client { return &Client{Socket: socket} }

// dial connects, and refuses a daemon of another user: it could see and
// answer everything.
func (c *Client) dial(ctx context.Context) (net.Conn, error) {
	if c.Dial != nil {
		return c.Dial(ctx)
	}
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", c.Socket)
	switch {
	case err == nil:
	case errors.Is(err, syscall.ENOENT), errors.Is(err, syscall.ECONNREFUSED):
		return nil, fmt.Errorf("%w: nothing answers on %s", ErrNotRunning, c.Socket)
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		return nil, foreignSocket(c.Socket, "you may not use it")
	case errors.Is(err, syscall.EINVAL) && len(c.Socket) > maxSocketPath:
		return nil, &api.Error{
			Kind:    api.KindState,
			Message: fmt.Sprintf("cannot use the socket %q: its path has %d bytes and at most %d are allowed", c.Socket, len(c.Socket), maxSocketPath),
			Hint:    "set XDG_RUNTIME_DIR to a directory with a shorter path",
		}
	default:
		return nil, fmt.Errorf("cannot connect to bangerd: %w", err)
	}
	uid, err := peerUID(conn)
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("cannot tell whose bangerd answers on %s: %w", c.Socket, err)
	}
	if uid != syscall.Getuid() {
		conn.Close()
		return nil, foreignSocket(c.Socket, fmt.Sprintf("uid %d listens on it and you are uid %d", uid, syscall.Getuid()))
	}
	return conn, nil
}

// maxSocketPath is what fits sun_path with its final NUL.
const maxSocketPath = 107

func foreignSocket(socket, why string) error {
	return &api.Error{
		Kind:    api.KindState,
		Message: fmt.Sprintf("cannot use the socket %q: it belongs to another user: %s", socket, why),
		Hint:    "set XDG_RUNTIME_DIR to a directory of yours",
	}
}

func peerUID(conn net.Conn) (int, error) {
	unixConn, ok := conn.(*net.UnixConn)
	if !ok {
		return 0, errors.New("not a unix socket")
	}
	raw, err := unixConn.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *syscall.Ucred
	var credErr error
	if err := raw.Control(func(fd uintptr) {
		cred, credErr = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED)
	}); err != nil {
		return 0, err
	}
	if credErr != nil {
		return 0, credErr
	}
	return int(cred.Uid), nil
}

// exchange is one request and its answer, on a connection of its own.
type exchange struct {
	conn   net.Conn
	reader *bufio.Reader
	resp   *http.Response
	// stop ends what happens to the connection when the context ends.
	stop func() bool
}

func (x *exchange) close() {
	x.stop()
	if x.resp != nil {
		x.resp.Body.Close()
	}
	x.conn.Close()
}

// hangUp is what the end of a context does to most connections.
func hangUp(conn net.Conn) { conn.Close() }

// send makes a request and reads the head of the answer; an answer that is an
// error is returned as one. Until the exchange is closed, the end of ctx does
// cancel to its connection.
func (c *Client) send(ctx context.Context, method, path string, in any, upgrade string, cancel func(net.Conn)) (*exchange, error) {
	var body io.Reader
	if in != nil {
		encoded, err := json.Marshal(in)
		if err != nil {
			return nil, fmt.Errorf("cannot encode the request: %w", err)
		}
		body = bytes.NewReader(encoded)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://bangerd"+path, body)
	if err != nil {
		return nil, fmt.Errorf("cannot make the request: %w", err)
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if upgrade != "" {
		req.Header.Set("Connection", "Upgrade")
		req.Header.Set("Upgrade", upgrade)
	}
	conn, err := c.dial(ctx)
	if err != nil {
		return nil, err
	}
	x := &exchange{conn: conn, reader: bufio.NewReader(conn)}
	x.stop = context.AfterFunc(ctx, func() { cancel(conn) })
	if err := x.roundTrip(ctx, req); err != nil {
		x.close()
		return nil, err
	}
	return x, nil
}

func (x *exchange) roundTrip(ctx context.Context, req *http.Request) error {
	if err := req.Write(x.conn); err != nil {
		return lost(ctx, err)
	}
	resp, err := http.ReadResponse(x.reader, req) //nolint:bodyclose // close does
	if err != nil {
		return lost(ctx, err)
	}
	x.resp = resp
	if resp.StatusCode < http.StatusBadRequest {
		return nil
	}
	return answeredError(resp)
}

func answeredError(resp *http.Response) error {
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	var answered api.Error
	if err == nil && json.Unmarshal(body, &answered) == nil && answered.Message != "" {
		return &answered
	}
	return &api.Error{Kind: api.KindInternal, Message: "bangerd gave an answer that banger does not understand: " + resp.Status}
}

// lost says what became of a connection that ended too early.
func lost(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var netErr *net.OpError
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.As(err, &netErr) {
		return &api.Error{
			Kind:    api.KindInternal,
			Message: "bangerd went away in the middle of the request",
			Hint:    "'banger daemon logs' may say why; the next command starts it again",
		}
	}
	return fmt.Errorf("cannot understand bangerd's answer: %w", err)
}

// call makes a request whose answer is JSON; out may be nil.
func (c *Client) call(ctx context.Context, method, path string, in, out any) error {
	x, err := c.send(ctx, method, path, in, "", hangUp)
	if err != nil {
		return err
	}
	defer x.close()
	body, err := io.ReadAll(io.LimitReader(x.resp.Body, maxAnswer))
	if err != nil {
		return lost(ctx, err)
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(body, out); err != nil {
		return fmt.Errorf("cannot understand bangerd's answer: %w", err)
	}
	return nil
}

// ask makes a request whose answer is a T.
func ask[T any](ctx context.Context, c *Client, method, path string, in any) (T, error) {
	var answer T
	err := c.call(ctx, method, path, in, &answer)
	return answer, err
}

// Daemon asks who answers.
func (c *Client) Daemon(ctx context.Context) (api.Daemon, error) {
	return ask[api.Daemon](ctx, c, http.MethodGet, "/v1/daemon", nil)
}

// StopDaemon stops bangerd and returns when its socket is closed. VMs go on.
func (c *Client) StopDaemon(ctx context.Context) error {
	if err := c.call(ctx, http.MethodPost, "/v1/daemon/stop", nil, nil); err != nil {
		return err
	}
	for {
		conn, err := c.dial(ctx)
		if errors.Is(err, ErrNotRunning) {
			return nil
		}
		if err == nil {
			conn.Close()
		}
		if err := pause(ctx, 10*time.Millisecond); err != nil {
			return fmt.Errorf("bangerd did not stop in time: %w", err)
		}
	}
}

// VMs lists all VMs.
func (c *Client) VMs(ctx context.Context) ([]api.VM, error) {
	return ask[[]api.VM](ctx, c, http.MethodGet, "/v1/vms", nil)
}

// VM looks one up by name, id or unique prefix of an id, as all other methods
// that take a ref do.
func (c *Client) VM(ctx context.Context, ref string) (api.VM, error) {
	return ask[api.VM](ctx, c, http.MethodGet, vmPath(ref, ""), nil)
}

// SetVM changes sizes.
func (c *Client) SetVM(ctx context.Context, ref string, set api.SetVM) (api.VM, error) {
	return ask[api.VM](ctx, c, http.MethodPatch, vmPath(ref, ""), set)
}

// DeleteVM deletes a VM and its disks.
func (c *Client) DeleteVM(ctx context.Context, ref string, del api.DeleteVM) error {
	return c.call(ctx, http.MethodDelete, vmPath(ref, ""), del, nil)
}

// KillVM ends a VM as a power cut would.
func (c *Client) KillVM(ctx context.Context, ref string) (api.VM, error) {
	return ask[api.VM](ctx, c, http.MethodPost, vmPath(ref, "/kill"), nil)
}

// Stats of a running VM.
func (c *Client) Stats(ctx context.Context, ref string) (api.Stats, error) {
	return ask[api.Stats](ctx, c, http.MethodGet, vmPath(ref, "/stats"), nil)
}

// Images in the store, and those that this bangerd can make.
func (c *Client) Images(ctx context.Context) ([]api.Image, error) {
	return ask[[]api.Image](ctx, c, http.MethodGet, "/v1/images", nil)
}

// Image looks one up.
func (c *Client) Image(ctx context.Context, name string) (api.Image, error) {
	return ask[api.Image](ctx, c, http.MethodGet, "/v1/images/"+url.PathEscape(name), nil)
}

// PruneImages removes what can be fetched again, or says what that would be.
func (c *Client) PruneImages(ctx context.Context, prune api.Prune) (api.Pruned, error) {
	return ask[api.Pruned](ctx, c, http.MethodPost, "/v1/images/prune", prune)
}

// DeleteImage deletes one that no VM uses.
func (c *Client) DeleteImage(ctx context.Context, name string) error {
	return c.call(ctx, http.MethodDelete, "/v1/images/"+url.PathEscape(name), nil, nil)
}

// Kernels in the store, or with available also those that this bangerd can make.
func (c *Client) Kernels(ctx context.Context, available bool) ([]api.Kernel, error) {
	path := "/v1/kernels"
	if available {
		path += "?available=1"
	}
	return ask[[]api.Kernel](ctx, c, http.MethodGet, path, nil)
}

// Kernel looks one up.
func (c *Client) Kernel(ctx context.Context, name string) (api.Kernel, error) {
	return ask[api.Kernel](ctx, c, http.MethodGet, "/v1/kernels/"+url.PathEscape(name), nil)
}

// DeleteKernel deletes one that no VM uses.
func (c *Client) DeleteKernel(ctx context.Context, name string) error {
	return c.call(ctx, http.MethodDelete, "/v1/kernels/"+url.PathEscape(name), nil, nil)
}

func vmPath(ref, rest string) string { return "/v1/vms/" + url.PathEscape(ref) + rest }

// Logs copies a VM's log to w: source is "console", "vmm", "metrics" or "network". With follow it
// goes on until ctx ends, which is not an error, or the VM is deleted.
func (c *Client) Logs(ctx context.Context, ref, source string, follow bool, w io.Writer) error {
	query := url.Values{"source": {source}}
	if follow {
		query.Set("follow", strconv.Itoa(1))
	}
	x, err := c.send(ctx, http.MethodGet, vmPath(ref, "/logs?")+query.Encode(), nil, "", hangUp)
	if err != nil {
		return err
	}
	defer x.close()
	if _, err := io.Copy(w, x.resp.Body); err != nil {
		if follow && ctx.Err() != nil {
			return nil
		}
		return lost(ctx, err)
	}
	return nil
}

func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
