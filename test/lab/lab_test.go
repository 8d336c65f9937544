package lab

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"banger/test/base"
)

// findFirecracker returns the binary to test: BANGER_TEST_FIRECRACKER, else
// what `make lab-tools` has fetched, else the one in PATH.
func findFirecracker(cache string) string {
	if path := os.Getenv("BANGER_TEST_FIRECRACKER"); path != "" {
		return path
	}
	fetched := filepath.Join(cache, "firecracker")
	if _, err := os.Stat(fetched); err == nil {
		return fetched
	}
	path, err := exec.LookPath("firecracker")
	if err != nil {
		return ""
	}
	return path
}

// need skips the test, or fails it in continuous integration, where whatever
// it needs must be there.
func need(t *testing.T, ok bool, what string) {
	t.Helper()
	switch {
	case ok:
	case os.Getenv("CI") != "":
		t.Fatalf("the lab needs %s", what)
	default:
		t.Skipf("NOT TESTED: the lab needs %s", what)
	}
}

func build(t *testing.T, to string, args ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), to)
	cmd := exec.CommandContext(t.Context(), "go", append(args[:1:1], append([]string{"-o", path}, args[1:]...)...)...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("cannot build %s: %v\n%s", to, err, out)
	}
	return path
}

func TestLab(t *testing.T) {
	if os.Getenv("BANGER_LAB") == "" {
		t.Skip("the lab takes minutes: set BANGER_LAB=1, or run `make lab`")
	}
	caches, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	cache := filepath.Join(caches, "banger-test")
	firecracker := findFirecracker(cache)
	need(t, firecracker != "", "firecracker: BANGER_TEST_FIRECRACKER names none, there is none in PATH, and `make lab-tools` fetches one")

	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Minute)
	defer cancel()
	prefix := t.TempDir()
	fetched, err := base.Prepare(ctx, filepath.Join("..", ".."), prefix, os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	state := base.State(fetched)
	dir, err := os.MkdirTemp("/tmp", "banger-lab-") //nolint:usetesting // short enough for sockets
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	began := time.Now()
	images, err := filepath.Glob(filepath.Join(state, "images", "objects", "*", "root.ext4"))
	need(t, err == nil && len(images) > 0, "an image in "+state)
	h, err := start(ctx, options{
		cache: cache, dir: dir, kernels: newKernels(state, t.TempDir()), memory: 5120, readOnly: images[:1],
		agent: base.Agent(prefix),
	})
	if err != nil {
		console, _ := os.ReadFile(filepath.Join(dir, "console.log"))
		t.Fatalf("%v\n%s", err, console)
	}
	defer func() {
		h.stop()
		if console, err := os.ReadFile(h.console); err == nil && t.Failed() {
			t.Logf("the end of the host's console:\n%s", console[max(0, len(console)-8192):])
		}
	}()
	t.Logf("the host answers after %.0f s", time.Since(began).Seconds())

	// Until then systemd tidies up, /tmp for one.
	ready, err := h.agent.Ready(ctx)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("the host is %s after %.0f s; failed units: %v", ready.State, time.Since(began).Seconds(), ready.Failed)

	run := func(t *testing.T, script string) string {
		t.Helper()
		var out bytes.Buffer
		code, err := h.run(ctx, script, strings.NewReader(""), &out, &out)
		if err != nil || code != 0 {
			t.Errorf("%s: status %d, %v\n%s", script, code, err, out.Bytes())
		}
		return out.String()
	}
	t.Logf("KVM: %s", run(t, "modprobe kvm_amd && modprobe tun && ls -l /dev/kvm /dev/net/tun"))
	for from, to := range map[string]string{
		h.vmlinux: "/root/vmlinux", h.initramfs: "/root/initramfs",
		firecracker: "/usr/local/bin/firecracker",
		build(t, "firecracker.test", "test", "-c", "banger/internal/vmm/firecracker"): "/root/firecracker.test",
	} {
		if err := h.put(ctx, from, to); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%s", run(t, "firecracker --version | head -1"))
	t.Run("Contract", func(t *testing.T) {
		t.Logf("%s", run(t, "cd /root && BANGER_TEST_FIRECRACKER=/usr/local/bin/firecracker ./firecracker.test -test.v -test.run '^TestReal(Table)?$' -test.timeout 10m"))
	})
	t.Run("Guest", func(t *testing.T) {
		t.Logf("%s", run(t, "cd /root && BANGER_TEST_FIRECRACKER=/usr/local/bin/firecracker BANGER_TEST_KERNEL=/root/vmlinux BANGER_TEST_INITRAMFS=/root/initramfs "+
			"BANGER_TEST_IMAGE=/dev/vde BANGER_TEST_MODULES=/dev/vdd ./firecracker.test -test.v -test.run '^TestRealGuest$' -test.timeout 20m"))
	})
}
