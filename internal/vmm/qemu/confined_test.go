package qemu_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"banger/internal/confine"
	"banger/internal/vmm"
	"banger/internal/vmm/qemu/qmp"
)

// TestConfined has the real QEMU told, by its own monitor, to do what only one
// that was taken over by its guest would do.
func TestConfined(t *testing.T) {
	t.Parallel()
	needQEMU(t)
	if abi, err := confine.LandlockABI(); err != nil {
		t.Skipf("NOT TESTED: Landlock %d, %v", abi, err)
	}
	spec := haltedSpec(t)
	spec.NIC = nil
	elsewhere := t.TempDir()
	other := filepath.Join(elsewhere, "other-disk")
	if err := os.WriteFile(other, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	m, err := emulated(t).Boot(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = m.Kill(t.Context()) }()
	checkStatus(t, m.Handle())
	client, err := qmp.Dial(t.Context(), filepath.Join(spec.RunDir, "qmp.sock"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = client.Close() }()
	type args = map[string]any
	open := func(name, path string) args {
		return args{"driver": "file", "node-name": name, "filename": path, "read-only": true}
	}
	if err := client.Execute(t.Context(), "blockdev-add", open("own", spec.Disks[0].Path), nil); err != nil {
		t.Errorf("its own disk: %v", err)
	}
	for _, test := range []struct {
		name, command string
		arguments     args
	}{
		{"read another VM's disk", "blockdev-add", open("other", other)},
		{"read a file of the host", "blockdev-add", open("host", "/etc/passwd")},
		{"write the image", "blockdev-add", args{"driver": "file", "node-name": "image", "filename": spec.Disks[0].Path}},
		{"write a file in a user's directory", "dump-guest-memory", args{"paging": false, "protocol": "file:" + filepath.Join(elsewhere, "dump")}},
		{"write a file in its own directory", "dump-guest-memory", args{"paging": false, "protocol": "file:" + filepath.Join(spec.RunDir, "dump")}},
		{"connect to a socket", "chardev-add", args{"id": "x", "backend": args{"type": "socket", "data": args{
			"server": false, "addr": args{"type": "unix", "data": args{"path": filepath.Join(spec.RunDir, "qmp.sock")}},
		}}}},
		{"connect to a host", "chardev-add", args{"id": "y", "backend": args{"type": "socket", "data": args{
			"server": false, "addr": args{"type": "inet", "data": args{"host": "127.0.0.1", "port": "1"}},
		}}}},
	} {
		err := client.Execute(t.Context(), test.command, test.arguments, nil)
		if err == nil {
			t.Errorf("can %s", test.name)
			continue
		}
		if text := err.Error(); !strings.Contains(text, "ermission denied") && !strings.Contains(text, "not permitted") {
			t.Errorf("%s: refused for another reason: %v", test.name, err)
		}
	}
}

// checkStatus holds a VMM to what its handle says, as the kernel sees it.
func checkStatus(t *testing.T, handle vmm.Handle) {
	t.Helper()
	if len(handle.Confinement) == 0 {
		t.Error("the handle has no layers")
	}
	for _, layer := range handle.Confinement {
		if !layer.On && layer.Name != "cgroup" { // as the host allows
			t.Errorf("layer %+v", layer)
		}
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", handle.PID))
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Join(strings.Fields(string(status)), " ")
	for _, want := range []string{"NoNewPrivs: 1", "Seccomp: 2", "Seccomp_filters: 2", "CapEff: 0000000000000000"} {
		if !strings.Contains(fields, want) {
			t.Errorf("no %q in %q", want, fields)
		}
	}
}
