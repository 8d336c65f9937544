// Package agent is the host's side of the agent protocol: a typed client of
// the agent in one guest. The daemon uses it on the machine's channel, the CLI
// on a stream that the daemon splices.
package agent

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/url"
	"time"

	"banger/internal/agent/wire"
)

// maxAnswer bounds a JSON answer of the guest, maxError one that is an error.
const (
	maxAnswer = 8 << 20
	maxError  = 64 << 10
)

// lookTimeout bounds a question that a guest answers at once unless it is
// overloaded or means harm: one guest must not hold up a listing of all.
const lookTimeout = 30 * time.Second

var errSilent = errors.New("it does not answer")

// idleTimeout is how long a stream is kept for the next call, which mostly comes
// at once or never.
const idleTimeout = time.Second

// What a guest sends unasked on a stream that is kept net/http writes to the log
// of the whole program, which nothing else does and nothing bounds.
func init() { log.SetOutput(io.Discard) }

// Client talks to the agent in one guest. Its methods may be called from any
// goroutine; calls at the same time have streams of their own. An error that the
// agent answered is a *[wire.Error] (errors.As).
type Client struct {
	http *http.Client
}

// New returns a client that opens its streams with dial.
func New(dial func(ctx context.Context) (net.Conn, error)) *Client {
	return &Client{http: &http.Client{Transport: &http.Transport{
		DialContext:        func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) },
		IdleConnTimeout:    idleTimeout,
		DisableCompression: true,
		WriteBufferSize:    64 << 10,
		ReadBufferSize:     64 << 10,
	}}}
}

// Hello asks the agent who it is. It is the first call that is answered while
// a guest boots.
func (c *Client) Hello(ctx context.Context) (wire.Hello, error) {
	var hello wire.Hello
	err := c.call(ctx, http.MethodGet, "/v1/hello", nil, &hello)
	if err == nil && hello.Version != wire.Version {
		err = fmt.Errorf("cannot talk to the guest's agent: it speaks version %d, not %d", hello.Version, wire.Version)
	}
	return hello, err
}

// Configure gives the guest its identity. At boot it returns when the guest's
// disks are mounted and the configuration is applied, just before its init
// starts; later it applies what changed.
func (c *Client) Configure(ctx context.Context, configuration wire.Configuration) error {
	return c.call(ctx, http.MethodPut, "/v1/configuration", configuration, nil)
}

// Ready waits until the guest's init has finished booting.
func (c *Client) Ready(ctx context.Context) (wire.Ready, error) {
	var ready wire.Ready
	err := c.call(ctx, http.MethodGet, "/v1/ready", nil, &ready)
	return ready, err
}

// Stats says what the guest uses now.
func (c *Client) Stats(ctx context.Context) (wire.Stats, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, lookTimeout, errSilent)
	defer cancel()
	var stats wire.Stats
	err := c.call(ctx, http.MethodGet, "/v1/stats", nil, &stats)
	return stats, err
}

// Ports lists the TCP ports something in the guest listens on.
func (c *Client) Ports(ctx context.Context) ([]wire.Port, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, lookTimeout, errSilent)
	defer cancel()
	var ports []wire.Port
	err := c.call(ctx, http.MethodGet, "/v1/ports", nil, &ports)
	return ports, err
}

// WatchPorts calls changed with the TCP ports something in the guest listens
// on, at once and whenever they change, until ctx ends or the guest is lost. It
// always returns an error.
func (c *Client) WatchPorts(ctx context.Context, changed func([]wire.Port)) error {
	resp, err := c.do(ctx, http.MethodGet, "/v1/ports?watch=1", nil, "")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, maxAnswer)
	for lines.Scan() {
		var ports []wire.Port
		if err := json.Unmarshal(lines.Bytes(), &ports); err != nil {
			return fmt.Errorf("cannot understand the guest's agent: %w", err)
		}
		changed(ports)
	}
	err = lines.Err()
	if err == nil {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("cannot follow the guest's ports: %w", err)
}

// Shutdown asks the guest for a clean end. It returns once what was written is
// on the disks and the shutdown is under way; the end of the VMM is the proof
// that it is complete.
func (c *Client) Shutdown(ctx context.Context, shutdown wire.Shutdown) error {
	return c.call(ctx, http.MethodPost, "/v1/shutdown", shutdown, nil)
}

// Upload unpacks a tar stream below the guest's directory path, which is made
// if it does not exist. Owners, modes and times are those in the stream.
func (c *Client) Upload(ctx context.Context, path string, tar io.Reader) error {
	resp, err := c.do(ctx, http.MethodPut, "/v1/files?path="+url.QueryEscape(path), fullReader{tar}, "")
	if err != nil {
		return err
	}
	return resp.Body.Close()
}

// fullReader fills every buffer before it returns. A tar stream is written in
// small pieces, each of which would become a chunk for the guest to take apart.
type fullReader struct{ r io.Reader }

func (f fullReader) Read(b []byte) (int, error) {
	n, err := io.ReadFull(f.r, b)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = io.EOF
	}
	return n, err
}

// Download returns a tar stream of the guest's file or directory path, with
// names relative to its parent. The caller closes it. A stream that breaks off
// is an error of Read.
func (c *Client) Download(ctx context.Context, path string) (io.ReadCloser, error) {
	resp, err := c.do(ctx, http.MethodGet, "/v1/files?path="+url.QueryEscape(path), nil, "")
	if err != nil {
		return nil, err
	}
	return resp.Body, nil
}

// System returns a tar stream of the guest's root file system, for an image of
// it. The caller closes it. A stream that breaks off is an error of Read.
func (c *Client) System(ctx context.Context) (io.ReadCloser, error) {
	resp, err := c.do(ctx, http.MethodGet, "/v1/system", nil, "")
	if err != nil {
		return nil, err
	}
	return resp.Body, nil
}

// call makes one request with JSON both ways; in and out may be nil.
func (c *Client) call(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("cannot ask the guest's agent: %w", err)
		}
		body = bytes.NewReader(b)
	}
	resp, err := c.do(ctx, method, path, body, "")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if out == nil {
		return nil
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(out); err != nil {
		return fmt.Errorf("cannot understand the guest's agent: %w", err)
	}
	return nil
}

// do makes one request and turns an answer that is not the expected success
// into an error. The caller closes the body.
func (c *Client) do(ctx context.Context, method, path string, body io.Reader, upgrade string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://agent"+path, body)
	if err != nil {
		return nil, fmt.Errorf("cannot ask the guest's agent: %w", err)
	}
	if upgrade != "" {
		req.Header.Set("Connection", "Upgrade")
		req.Header.Set("Upgrade", upgrade)
	}
	resp, err := c.http.Do(req)
	if err != nil {
		// Its text has the made-up address; what matters is below it.
		if e, ok := errors.AsType[*url.Error](err); ok {
			err = e.Err
		}
		return nil, fmt.Errorf("cannot ask the guest's agent: %w", err)
	}
	switch {
	case resp.StatusCode == http.StatusSwitchingProtocols && upgrade != "":
		return resp, nil
	case resp.StatusCode >= 200 && resp.StatusCode < 300 && upgrade == "":
		return resp, nil
	}
	defer resp.Body.Close()
	e := &wire.Error{}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxError)).Decode(e); err != nil || e.Message == "" {
		return nil, fmt.Errorf("cannot understand the guest's agent: it answered %q", resp.Status)
	}
	return nil, e
}

// upgrade makes a request that turns into a stream, which ends with ctx.
func (c *Client) upgrade(ctx context.Context, path, protocol string, in any) (io.ReadWriteCloser, error) {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return nil, fmt.Errorf("cannot ask the guest's agent: %w", err)
		}
		body = bytes.NewReader(b)
	}
	resp, err := c.do(ctx, http.MethodPost, path, body, protocol)
	if err != nil {
		return nil, err
	}
	rw, ok := resp.Body.(io.ReadWriteCloser)
	if !ok {
		resp.Body.Close()
		return nil, errors.New("cannot understand the guest's agent: it did not switch protocols")
	}
	return rw, nil
}
