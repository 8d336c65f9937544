package firecracker_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/vmm"
	"banger/internal/vmm/launch"
)

// needNetwork skips a test where there can be no network without root.
func needNetwork(t *testing.T) {
	t.Helper()
	if err := launch.CheckNetwork(t.Context(), self); err != nil {
		t.Skipf("NOT TESTED: %v", err)
	}
}

// TestNetwork connects a VM to the process of its network: that gets a TAP, and
// sees the end of the VMM; the VMM is in a network of its own, without any
// power over it.
func TestNetwork(t *testing.T) {
	t.Parallel()
	needNetwork(t)
	driver := driverOf(fake, working)(t)
	if c := driver.Probe(t.Context()); !slices.Contains(c.Networks, vmm.NetworkStream) || len(c.Reasons) > 0 {
		t.Errorf("the driver finds %+v", c)
	}
	spec := newSpec(t)
	spec.NIC = &vmm.NIC{Mode: vmm.NetworkStream, Socket: filepath.Join(spec.RunDir, "network.sock"), MAC: "02:00:00:00:00:05"}
	listener, err := new(net.ListenConfig).Listen(t.Context(), "unix", spec.NIC.Socket)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	m, err := driver.Boot(t.Context(), spec)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = m.Close() }()
	defer func() { _ = m.Kill(t.Context()) }()
	conn, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	one, rights := make([]byte, 1), make([]byte, 64)
	n, m2, _, _, err := conn.(*net.UnixConn).ReadMsgUnix(one, rights)
	if err != nil || n != 1 {
		t.Fatalf("%d bytes, %v", n, err)
	}
	messages, err := unix.ParseSocketControlMessage(rights[:m2])
	if err != nil || len(messages) != 1 {
		t.Fatalf("%d messages, %v", len(messages), err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) != 1 {
		t.Fatalf("descriptors %v, %v", fds, err)
	}
	defer func() { _ = unix.Close(fds[0]) }()
	if path, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fds[0])); err != nil || path != "/dev/net/tun" {
		t.Errorf("the descriptor is of %q, %v", path, err)
	}

	pid := m.Handle().PID
	for _, kind := range []string{"net", "user"} {
		ours, err := os.Readlink("/proc/self/ns/" + kind)
		theirs, err2 := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, kind))
		if err := errors.Join(err, err2); err != nil || ours == theirs {
			t.Errorf("it is in the %s namespace %s, we in %s, %v", kind, theirs, ours, err)
		}
	}
	var header unix.CapUserHeader
	header.Version, header.Pid = unix.LINUX_CAPABILITY_VERSION_3, int32(pid)
	var caps [2]unix.CapUserData
	if err := unix.Capget(&header, &caps[0]); err != nil || caps[0].Permitted != 0 || caps[1].Permitted != 0 {
		t.Errorf("it has the capabilities %x, %v", caps, err)
	}

	if err := m.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	if n, err := conn.Read(one); n != 0 || err == nil {
		t.Errorf("after its end: %d bytes, %v", n, err)
	}
}

// TestNoNetworkProcess boots a VM whose network is not there.
func TestNoNetworkProcess(t *testing.T) {
	t.Parallel()
	spec := newSpec(t)
	spec.NIC = &vmm.NIC{Mode: vmm.NetworkStream, Socket: filepath.Join(spec.RunDir, "network.sock")}
	m, err := driverOf(fake, working)(t).Boot(t.Context(), spec)
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error %v", err)
	}
	if err == nil {
		_ = m.Kill(t.Context())
	}
}

// forbidden is set in a process that may not make user namespaces.
const forbidden = "BANGER_TEST_NO_NAMESPACES"

// Where user namespaces are forbidden the driver says so, in one reason, and
// takes the TAPs of bridge mode only.
func TestNamespacesForbidden(t *testing.T) {
	t.Parallel()
	if os.Getenv(forbidden) == "" {
		cmd := exec.CommandContext(t.Context(), "unshare", "--user", "--map-root-user", "sh", "-c",
			`echo 0 >/proc/sys/user/max_user_namespaces && exec "$0" -test.run '^TestNamespacesForbidden$' -test.v`, self)
		cmd.Env = append(os.Environ(), forbidden+"=1")
		out, err := cmd.CombinedOutput()
		if !strings.Contains(string(out), "=== RUN") {
			t.Skipf("NOT TESTED: cannot forbid user namespaces: %v: %s", err, out)
		}
		if err != nil {
			t.Errorf("%v: %s", err, out)
		}
		return
	}
	c := driverOf(fake, working)(t).Probe(t.Context())
	if !c.Usable || !slices.Equal(c.Networks, []vmm.NetworkMode{vmm.NetworkTAP}) {
		t.Errorf("the driver finds %+v", c)
	}
	if len(c.Reasons) != 1 || !strings.Contains(c.Reasons[0], "user.max_user_namespaces allows no more") {
		t.Errorf("because %q", c.Reasons)
	}
}
