// Package fcapi is a small client of Firecracker's API: HTTP/1.1 on a unix
// socket (Firecracker, src/firecracker/swagger/firecracker.yaml, 1.12 and
// later). Only what every supported version understands is sent: a field that
// is not known is an error there.
package fcapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
)

// maxAnswer bounds what is read of an answer.
const maxAnswer = 1 << 20

// Client talks to one Firecracker. It may be used from any goroutine;
// Firecracker answers one request after the other.
type Client struct {
	http *http.Client
	// Deprecated is called, if it is set, with each request that Firecracker
	// says will not work for ever.
	Deprecated func(method, path string)
}

// New returns a client of the Firecracker that listens at socket.
func New(socket string) *Client {
	return &Client{http: &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
		DisableCompression: true,
		// It takes ten connections at a time: one is enough.
		MaxConnsPerHost: 1,
	}}}
}

// Close closes the idle connection.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Error is a request that Firecracker refused.
type Error struct {
	Method, Path string
	Status       int
	Message      string
}

func (e *Error) Error() string {
	return fmt.Sprintf("firecracker refused %s %s: %s", e.Method, e.Path, e.Message)
}

// Instance is the answer of GET /.
type Instance struct {
	ID      string `json:"id"`
	State   string `json:"state"` // "Not started", "Running" or "Paused"
	Version string `json:"vmm_version"`
}

// MachineConfig is PUT /machine-config.
type MachineConfig struct {
	VCPU      int `json:"vcpu_count"`
	MemoryMiB int `json:"mem_size_mib"`
}

// BootSource is PUT /boot-source. Its files are opened by the call.
type BootSource struct {
	Kernel string `json:"kernel_image_path"`
	Initrd string `json:"initrd_path,omitempty"`
	Args   string `json:"boot_args,omitempty"`
}

// Drive is PUT /drives/{id}. The order of the calls is that of the guest's
// devices.
type Drive struct {
	ID       string `json:"drive_id"` // letters, digits and _
	Root     bool   `json:"is_root_device"`
	ReadOnly bool   `json:"is_read_only"`
	Path     string `json:"path_on_host"`
	// Cache is "Unsafe" or "Writeback": the latter takes a guest's flush to
	// the host's disk.
	Cache string `json:"cache_type,omitempty"`
}

// NetworkInterface is PUT /network-interfaces/{id}; the TAP is opened by the
// call.
type NetworkInterface struct {
	ID  string `json:"iface_id"`
	TAP string `json:"host_dev_name"`
	MAC string `json:"guest_mac,omitempty"`
}

// Vsock is PUT /vsock; the socket is bound by the call.
type Vsock struct {
	CID  uint32 `json:"guest_cid"`
	Path string `json:"uds_path"`
}

// Instance asks for the state. That it is answered says that the API is up.
func (c *Client) Instance(ctx context.Context) (Instance, error) {
	var instance Instance
	return instance, c.do(ctx, http.MethodGet, "/", nil, &instance)
}

// Version asks for the version: "1.12.1".
func (c *Client) Version(ctx context.Context) (string, error) {
	var version struct {
		Version string `json:"firecracker_version"`
	}
	err := c.do(ctx, http.MethodGet, "/version", nil, &version)
	return version.Version, err
}

// PutMachineConfig sets CPUs and memory.
func (c *Client) PutMachineConfig(ctx context.Context, m MachineConfig) error {
	return c.do(ctx, http.MethodPut, "/machine-config", m, nil)
}

// PutBootSource sets kernel, initramfs and kernel arguments.
func (c *Client) PutBootSource(ctx context.Context, b BootSource) error {
	return c.do(ctx, http.MethodPut, "/boot-source", b, nil)
}

// PutDrive adds a disk.
func (c *Client) PutDrive(ctx context.Context, d Drive) error {
	return c.do(ctx, http.MethodPut, "/drives/"+d.ID, d, nil)
}

// PutNetworkInterface adds an interface.
func (c *Client) PutNetworkInterface(ctx context.Context, n NetworkInterface) error {
	return c.do(ctx, http.MethodPut, "/network-interfaces/"+n.ID, n, nil)
}

// PutVsock adds the vsock device.
func (c *Client) PutVsock(ctx context.Context, v Vsock) error {
	return c.do(ctx, http.MethodPut, "/vsock", v, nil)
}

// PutEntropy adds a random number generator.
func (c *Client) PutEntropy(ctx context.Context) error {
	return c.do(ctx, http.MethodPut, "/entropy", struct{}{}, nil)
}

// PutMetrics makes Firecracker write its metrics to a file, which exists.
func (c *Client) PutMetrics(ctx context.Context, path string) error {
	return c.do(ctx, http.MethodPut, "/metrics", struct {
		Path string `json:"metrics_path"`
	}{path}, nil)
}

// Start starts the guest.
func (c *Client) Start(ctx context.Context) error {
	return c.do(ctx, http.MethodPut, "/actions", struct {
		Type string `json:"action_type"`
	}{"InstanceStart"}, nil)
}

// do makes one request. The body has a length: Firecracker does not read
// chunked ones.
func (c *Client) do(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		data, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("cannot encode a request to firecracker: %w", err)
		}
		body = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://localhost"+path, body)
	if err != nil {
		return fmt.Errorf("cannot make a request to firecracker: %w", err)
	}
	req.Header.Set("Accept", "application/json")
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.http.Do(req)
	if err != nil {
		return fmt.Errorf("cannot ask firecracker: %w", err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("cannot read firecracker's answer to %s %s: %w", method, path, err)
	}
	if c.Deprecated != nil && resp.Header.Get("Deprecation") != "" {
		c.Deprecated(method, path)
	}
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return &Error{Method: method, Path: path, Status: resp.StatusCode, Message: faultMessage(data)}
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(data, out); err != nil {
		return fmt.Errorf("cannot understand firecracker's answer to %s %s: %w", method, path, err)
	}
	return nil
}

// faultMessage reads the body of a refusal: {"fault_message": ...}, or, from
// its HTTP layer, {"error": ...} with line breaks that JSON does not allow.
func faultMessage(body []byte) string {
	var fault struct {
		Message string `json:"fault_message"`
		Error   string `json:"error"`
	}
	if json.Unmarshal(body, &fault) == nil {
		if text := fault.Message + fault.Error; text != "" {
			return text
		}
	}
	text := strings.TrimSpace(string(body))
	if text == "" {
		return "without a reason"
	}
	const most = 1024
	return strings.ToValidUTF8(text[:min(len(text), most)], "?")
}

// IsRefused says whether Firecracker itself refused, as opposed to not being
// reached.
func IsRefused(err error) bool {
	_, ok := errors.AsType[*Error](err)
	return ok
}
