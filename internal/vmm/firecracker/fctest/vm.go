package fctest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"

	"banger/internal/vmm/netns"
)

// States of a VM.
const (
	notStarted = "Not started"
	running    = "Running"
)

// Most that the API takes in one body.
const maxPayload = 51200

// Answers of Firecracker that depend on its state.
const (
	tooEarly = "The requested operation is not supported before starting the microVM."
	tooLate  = "The requested operation is not supported after starting the microVM."
)

// vm is the fake's one VM, and its API.
type vm struct {
	id  string
	log io.Writer

	mu     sync.Mutex // Firecracker answers one request after the other
	state  string
	config machine
	kernel bool
	drives []drive
	nics   []nic
	vsock  *vsock
	// metrics is a path.
	metrics string
}

type machine struct {
	VCPU      int `json:"vcpu_count"`
	MemoryMiB int `json:"mem_size_mib"`
}

type drive struct {
	ID       string `json:"drive_id"`
	Root     bool   `json:"is_root_device"`
	ReadOnly bool   `json:"is_read_only"`
	Path     string `json:"path_on_host"`
	Cache    string `json:"cache_type"`
	Engine   string `json:"io_engine"`
}

type nic struct {
	ID  string `json:"iface_id"`
	TAP string `json:"host_dev_name"`
	MAC string `json:"guest_mac"`
}

// fault is what Firecracker says of a request that it refuses, word for word.
type fault string

func (f fault) Error() string { return string(f) }

func faultf(format string, args ...any) error { return fault(fmt.Sprintf(format, args...)) }

func newVM(id string, log io.Writer) *vm {
	return &vm{id: id, log: log, state: notStarted, config: machine{VCPU: 1, MemoryMiB: 128}}
}

func (v *vm) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	v.mu.Lock()
	defer v.mu.Unlock()
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxPayload))
	if err != nil {
		// From its HTTP layer, with a line break that JSON does not allow.
		respond(w, http.StatusBadRequest, "{ \"error\": \"Request payload with size is larger than the limit.\nAll previous unanswered requests will be dropped.\" }")
		return
	}
	fmt.Fprintf(v.log, "%s [%s:fc_api] The API server received a %s request on %q.\n", now(), v.id, r.Method, r.URL.Path)
	answer, err := v.handle(r.Method, r.URL.Path, body)
	switch {
	case err != nil:
		data, _ := json.Marshal(map[string]string{"fault_message": err.Error()})
		respond(w, http.StatusBadRequest, string(data))
	case answer == nil:
		w.WriteHeader(http.StatusNoContent)
	default:
		data, _ := json.Marshal(answer)
		respond(w, http.StatusOK, string(data))
	}
}

func respond(w http.ResponseWriter, status int, body string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, body)
}

func (v *vm) handle(method, path string, body []byte) (any, error) {
	if method == http.MethodPut && len(body) == 0 {
		return nil, fault("Empty PUT request.")
	}
	resource, id, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	switch method + " " + resource {
	case "GET ":
		return map[string]string{"id": v.id, "state": v.state, "vmm_version": Version, "app_name": "Firecracker"}, nil
	case "GET version":
		return map[string]string{"firecracker_version": Version}, nil
	case "GET machine-config":
		return v.config, nil
	case "PUT machine-config":
		return nil, v.before(func() error { return v.putMachine(body) })
	case "PUT boot-source":
		return nil, v.before(func() error { return v.putBootSource(body) })
	case "PUT drives":
		return nil, v.before(func() error { return v.putDrive(id, body) })
	case "PATCH drives":
		return nil, v.after(func() error { return v.patchDrive(id, body) })
	case "PUT network-interfaces":
		return nil, v.before(func() error { return v.putNIC(id, body) })
	case "PUT vsock":
		return nil, v.before(func() error { return v.putVsock(body) })
	case "PUT metrics":
		return nil, v.before(func() error { return v.putMetrics(body) })
	case "PUT entropy":
		return nil, v.before(func() error { return decode(body, &struct{}{}) })
	case "PATCH vm":
		return nil, v.after(func() error {
			return decode(body, &struct {
				State string `json:"state"`
			}{}, "state")
		})
	case "PUT actions":
		return nil, v.action(body)
	}
	return nil, faultf("Invalid request method and/or path: %s %s.", method, strings.TrimPrefix(path, "/"))
}

// before is for calls that configure a VM, after for those to one that runs.
func (v *vm) before(call func() error) error {
	if v.state != notStarted {
		return fault(tooLate)
	}
	return call()
}

func (v *vm) after(call func() error) error {
	if v.state == notStarted {
		return fault(tooEarly)
	}
	return call()
}

func (v *vm) putMachine(body []byte) error {
	var m struct {
		machine
		SMT   bool   `json:"smt"`
		Track bool   `json:"track_dirty_pages"`
		Huge  string `json:"huge_pages"`
	}
	if err := decode(body, &m, "vcpu_count", "mem_size_mib"); err != nil {
		return err
	}
	if m.MemoryMiB == 0 {
		return fault("The memory size (MiB) is either 0, or not a multiple of the configured page size.")
	}
	if m.VCPU < 1 || m.VCPU > 32 {
		return fault("The number of vCPUs must be greater than 0, less than 32 and must be 1 or an even number if SMT is enabled.")
	}
	v.config = m.machine
	return nil
}

func (v *vm) putBootSource(body []byte) error {
	var b struct {
		Kernel string `json:"kernel_image_path"`
		Initrd string `json:"initrd_path"`
		Args   string `json:"boot_args"`
	}
	if err := decode(body, &b, "kernel_image_path"); err != nil {
		return err
	}
	if err := openable(b.Kernel, false); err != nil {
		return faultf("Boot source error: The kernel file cannot be opened: %v", err)
	}
	if b.Initrd != "" {
		if err := openable(b.Initrd, false); err != nil {
			return faultf("Boot source error: The initrd file cannot be opened: %v", err)
		}
	}
	v.kernel = true
	return nil
}

func (v *vm) putDrive(id string, body []byte) error {
	var d drive
	if err := decode(body, &d, "drive_id", "is_root_device"); err != nil {
		return err
	}
	if err := checkID(id, d.ID); err != nil {
		return err
	}
	if d.Path == "" {
		return fault("Unable to create the block device: Running method expected different backend.")
	}
	if err := openable(d.Path, !d.ReadOnly); err != nil {
		return faultf("Unable to create the block device: Virtio backend error: Error manipulating the backing file: %v %s", err, d.Path)
	}
	if d.Cache != "" && d.Cache != "Unsafe" && d.Cache != "Writeback" {
		return unknownVariant(d.Cache, "`Unsafe` or `Writeback`")
	}
	for i, other := range v.drives {
		if other.ID == d.ID {
			v.drives[i] = d
			return nil
		}
		if other.Root && d.Root {
			return fault("A root block device already exists!")
		}
	}
	v.drives = append(v.drives, d)
	return nil
}

func (v *vm) patchDrive(id string, body []byte) error {
	var d struct {
		ID   string  `json:"drive_id"`
		Path *string `json:"path_on_host"`
	}
	if err := decode(body, &d, "drive_id"); err != nil {
		return err
	}
	if err := checkID(id, d.ID); err != nil {
		return err
	}
	if d.Path == nil {
		return fault("Unable to patch the block device: Running method expected different backend.")
	}
	if err := openable(*d.Path, true); err != nil {
		return faultf("Unable to patch the block device: Error manipulating the backing file: %v", err)
	}
	return nil
}

func (v *vm) putNIC(id string, body []byte) error {
	var n nic
	if err := decode(body, &n, "iface_id", "host_dev_name"); err != nil {
		return err
	}
	if err := checkID(id, n.ID); err != nil {
		return err
	}
	for _, other := range v.nics {
		if other.ID != n.ID && n.MAC != "" && other.MAC == n.MAC {
			return faultf("Cannot create network device: The MAC address is already in use: %s", n.MAC)
		}
	}
	if _, err := netns.OpenTAP(n.TAP); err != nil {
		return faultf("Could not create the network device: Open tap device failed: %v", err)
	}
	v.nics = append(v.nics, n)
	return nil
}

func (v *vm) putMetrics(body []byte) error {
	var m struct {
		Path string `json:"metrics_path"`
	}
	if err := decode(body, &m, "metrics_path"); err != nil {
		return err
	}
	if err := openable(m.Path, true); err != nil {
		return faultf("Metrics error: Failed to open target file: %v", err)
	}
	v.metrics = m.Path
	return nil
}

func (v *vm) action(body []byte) error {
	var a struct {
		Type string `json:"action_type"`
	}
	if err := decode(body, &a, "action_type"); err != nil {
		return err
	}
	switch a.Type {
	case "InstanceStart":
		return v.before(v.start)
	case "FlushMetrics", "SendCtrlAltDel":
		return v.after(func() error { return nil })
	}
	return unknownVariant(a.Type, "one of `FlushMetrics`, `InstanceStart`, `SendCtrlAltDel`")
}

func (v *vm) start() error {
	if !v.kernel {
		return fault("Cannot start microvm without kernel configuration.")
	}
	v.state = running
	if v.metrics != "" {
		if err := os.WriteFile(v.metrics, []byte("{\"utc_timestamp_ms\":1}\n"), 0o600); err != nil {
			return err
		}
	}
	if v.vsock != nil {
		v.vsock.boot(v.config)
	}
	fmt.Fprintf(os.Stdout, "fake guest of %s\n", v.id)
	return nil
}

// openable opens what Firecracker opens when it is told of it.
func openable(path string, write bool) error {
	flags := os.O_RDONLY
	if write {
		flags = os.O_RDWR
	}
	file, err := os.OpenFile(path, flags, 0)
	if errors.Is(err, os.ErrNotExist) {
		return fault("No such file or directory (os error 2)")
	}
	if err != nil {
		return err
	}
	return file.Close()
}
