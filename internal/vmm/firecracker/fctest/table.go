package fctest

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
)

// Call is one request, and what Firecracker answers: Want is part of the
// message of a refusal, since the rest of it moves between versions. An empty
// Want is success.
type Call struct {
	Name, Method, Path, Body, Want string
}

// Words that several refusals share.
const (
	wrongJSON = "An error occurred when deserializing the json body"
	missing   = "No such file or directory"
)

// Early returns calls to a Firecracker that was just started. Those that are
// refused change nothing. kernel and disk are files that it can open, and the
// last call starts a guest.
func Early(kernel, disk string) []Call {
	drive := func(id, more string) string {
		return `{"drive_id":"` + id + `","is_root_device":false,"path_on_host":"` + disk + `"` + more + `}`
	}
	return []Call{
		{"no kernel yet", "PUT", "/actions", `{"action_type":"InstanceStart"}`, "Cannot start microvm without kernel"},
		{"an action that is none", "PUT", "/actions", `{"action_type":"Dance"}`, "unknown variant `Dance`"},
		{"flush before the start", "PUT", "/actions", `{"action_type":"FlushMetrics"}`, "not supported before starting"},
		{"pause before the start", "PATCH", "/vm", `{"state":"Paused"}`, "not supported before starting"},
		{"patch a drive before the start", "PATCH", "/drives/x", `{"drive_id":"x","path_on_host":"/x"}`, "not supported before starting"},
		{"no CPUs given", "PUT", "/machine-config", `{"mem_size_mib":128}`, "missing field `vcpu_count`"},
		{"no memory given", "PUT", "/machine-config", `{"vcpu_count":1}`, "missing field `mem_size_mib`"},
		{"memory of nothing", "PUT", "/machine-config", `{"vcpu_count":1,"mem_size_mib":0}`, "memory size"},
		{"no CPU", "PUT", "/machine-config", `{"vcpu_count":0,"mem_size_mib":128}`, "number of vCPUs"},
		{"too many CPUs", "PUT", "/machine-config", `{"vcpu_count":33,"mem_size_mib":128}`, "number of vCPUs"},
		{"a text for a number", "PUT", "/machine-config", `{"vcpu_count":"1","mem_size_mib":128}`, "invalid type"},
		{"null for a flag", "PUT", "/machine-config", `{"vcpu_count":1,"mem_size_mib":128,"smt":null}`, "invalid type: null"},
		{"an unknown field", "PUT", "/machine-config", `{"vcpu_count":1,"mem_size_mib":128,"speed":1}`, "unknown field `speed`"},
		{"half a body", "PUT", "/machine-config", `{"vcpu_count":`, wrongJSON},
		{"no body", "PUT", "/machine-config", ``, "Empty PUT request"},
		{"a kernel that is not there", "PUT", "/boot-source", `{"kernel_image_path":"/nonexistent"}`, missing},
		{"an initrd that is not there", "PUT", "/boot-source", `{"kernel_image_path":"` + kernel + `","initrd_path":"/nonexistent"}`, missing},
		{"no path of a kernel", "PUT", "/boot-source", `{"boot_args":"x"}`, "missing field `kernel_image_path`"},
		{"a disk that is not there", "PUT", "/drives/a", `{"drive_id":"a","is_root_device":false,"path_on_host":"/nonexistent"}`, missing},
		{"a hyphen", "PUT", "/drives/a-b", drive("a-b", ""), "can only contain alphanumeric characters and underscores"},
		{"another id", "PUT", "/drives/a", drive("b", ""), "does not match the id from the body"},
		{"an odd cache", "PUT", "/drives/a", drive("a", `,"cache_type":"Some"`), "unknown variant `Some`"},
		{"metrics without a file", "PUT", "/metrics", `{}`, "missing field `metrics_path`"},
		{"an interface without a TAP", "PUT", "/network-interfaces/a", `{"iface_id":"a"}`, "missing field `host_dev_name`"},
		{"a vsock without a socket", "PUT", "/vsock", `{"guest_cid":3}`, "missing field `uds_path`"},
		{"no such resource", "PUT", "/foo", `{}`, "Invalid request method and/or path"},
		{"no such method there", "GET", "/actions", ``, "Invalid request method and/or path"},

		{"machine", "PUT", "/machine-config", `{"vcpu_count":1,"mem_size_mib":128}`, ""},
		{"kernel", "PUT", "/boot-source", `{"kernel_image_path":"` + kernel + `","boot_args":"console=ttyS0"}`, ""},
		{"a root", "PUT", "/drives/root", `{"drive_id":"root","is_root_device":true,"path_on_host":"` + disk + `"}`, ""},
		{"a second root", "PUT", "/drives/root2", `{"drive_id":"root2","is_root_device":true,"path_on_host":"` + disk + `"}`, "A root block device already exists"},
		{"a drive", "PUT", "/drives/data", drive("data", `,"cache_type":"Writeback"`), ""},
		{"it again", "PUT", "/drives/data", drive("data", ""), ""},
		{"entropy", "PUT", "/entropy", `{}`, ""},
		{"start", "PUT", "/actions", `{"action_type":"InstanceStart"}`, ""},
	}
}

// Late returns calls to a Firecracker whose guest runs.
func Late(kernel, disk string) []Call {
	return []Call{
		{"start again", "PUT", "/actions", `{"action_type":"InstanceStart"}`, "not supported after starting"},
		{"machine", "PUT", "/machine-config", `{"vcpu_count":1,"mem_size_mib":128}`, "not supported after starting"},
		{"kernel", "PUT", "/boot-source", `{"kernel_image_path":"` + kernel + `"}`, "not supported after starting"},
		{"entropy", "PUT", "/entropy", `{}`, "not supported after starting"},
		{"patch to what is not there", "PATCH", "/drives/data", `{"drive_id":"data","path_on_host":"/nonexistent"}`, missing},
		{"patch of nothing", "PATCH", "/drives/data", `{"drive_id":"data"}`, "Running method expected different backend"},
		{"patch of what is fixed", "PATCH", "/drives/data", `{"drive_id":"data","is_read_only":true}`, "unknown field `is_read_only`"},
		{"patch", "PATCH", "/drives/data", `{"drive_id":"data","path_on_host":"` + disk + `"}`, ""},
	}
}

// Check makes calls, one after the other, to the Firecracker that listens at
// socket, and fails the test where it answers otherwise.
func Check(t *testing.T, socket string, calls []Call) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		},
		MaxConnsPerHost: 1,
	}}
	defer client.CloseIdleConnections()
	for _, call := range calls {
		status, body, err := do(t.Context(), client, call)
		if err != nil {
			t.Errorf("%s: %v", call.Name, err)
			continue
		}
		if call.Want == "" {
			if status != http.StatusNoContent {
				t.Errorf("%s: status %d, %s", call.Name, status, body)
			}
			continue
		}
		var fault struct {
			Message string `json:"fault_message"`
		}
		if err := json.Unmarshal(body, &fault); err != nil || status != http.StatusBadRequest || !strings.Contains(fault.Message, call.Want) {
			t.Errorf("%s: status %d, %s; want %q in its fault_message", call.Name, status, body, call.Want)
		}
	}
}

func do(ctx context.Context, client *http.Client, call Call) (int, []byte, error) {
	request, err := http.NewRequestWithContext(ctx, call.Method, "http://localhost"+call.Path, bytes.NewReader([]byte(call.Body)))
	if err != nil {
		return 0, nil, err
	}
	response, err := client.Do(request)
	if err != nil {
		return 0, nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return response.StatusCode, body, err
}
