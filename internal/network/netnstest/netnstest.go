// Package netnstest runs tests in network namespaces of their own, in which
// they may do what root does.
package netnstest

import (
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

const inside = "BANGER_TEST_IN_NETNS"

// Enter runs the calling test again in a process that has a network namespace
// with nothing but a loopback interface, and returns false. In that process it
// returns true: the test goes on there. An ordinary user gets a user namespace
// besides; where that is not allowed the test is skipped.
func Enter(t *testing.T) bool {
	t.Helper()
	if os.Getenv(inside) == t.Name() {
		lo, err := netlink.LinkByName("lo")
		if err == nil {
			err = netlink.LinkSetUp(lo)
		}
		if err != nil {
			t.Fatal(err)
		}
		return true
	}
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v", "-test.count=1")
	cmd.Env = append(os.Environ(), inside+"="+t.Name())
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET}
	if os.Getuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	}
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		t.Skipf("SKIPPED: a network namespace cannot be made here: %v", err)
	}
	t.Logf("in its network namespace:\n%s", out)
	switch {
	case err != nil:
		t.Fatal(err)
	case strings.Contains(string(out), "--- SKIP: "+t.Name()):
		t.Skip("SKIPPED, see above")
	case !strings.Contains(string(out), "--- PASS: "+t.Name()):
		t.Fatal("it did not run there")
	}
	return false
}

// World is a second network namespace: what is around the host.
type World struct {
	Net  *netlink.Handle
	away netns.NsHandle
}

// NewWorld makes one. It ends with the test's process.
func NewWorld(t *testing.T) *World {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	home, err := netns.Get()
	if err != nil {
		t.Fatal(err)
	}
	away, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	if err := netns.Set(home); err != nil {
		t.Fatal(err)
	}
	handle, err := netlink.NewHandleAt(away)
	if err != nil {
		t.Fatal(err)
	}
	return &World{Net: handle, away: away}
}

// Do calls f in the namespace: sockets that it makes stay there.
func (w *World) Do(t *testing.T, f func()) {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with it
		err := netns.Set(w.away)
		if err == nil {
			f()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// Move gives the namespace a link of the host.
func (w *World) Move(t *testing.T, link netlink.Link) {
	t.Helper()
	if err := netlink.LinkSetNsFd(link, int(w.away)); err != nil {
		t.Fatal(err)
	}
}
