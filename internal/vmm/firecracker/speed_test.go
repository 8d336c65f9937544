package firecracker

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"banger/internal/agent"
	"banger/internal/agent/wire"
	"banger/internal/vmm/firecracker/fcapi"
)

// speedTimeout bounds the boot.
const speedTimeout = 5 * time.Minute

// TestRealBoot says how long it takes by hand, at least: firecracker
// --config-file until the agent answers for the first time. The parts are named
// by variables as for [TestRealGuest]; OVERLAY and WORK are disks to copy.
func TestRealBoot(t *testing.T) {
	binary := os.Getenv("BANGER_TEST_FIRECRACKER")
	if binary == "" || os.Getenv("BANGER_TEST_OVERLAY") == "" {
		t.Skip("NOT MEASURED: BANGER_TEST_FIRECRACKER and BANGER_TEST_OVERLAY name nothing; see test/lab")
	}
	fmt.Fprintf(os.Stdout, "answered after %.3f s\n", bareBoot(t, binary).Seconds())
}

// bareBoot boots the guest by hand.
func bareBoot(t *testing.T, binary string) time.Duration {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "banger-bare-") //nolint:usetesting // short enough for sockets
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	socket, config := filepath.Join(dir, "v.sock"), filepath.Join(dir, "config.json")
	part := func(name string) string { return os.Getenv("BANGER_TEST_" + name) }
	drives := []fcapi.Drive{{ID: "disk0", Path: part("IMAGE"), ReadOnly: true}}
	for _, name := range []string{"OVERLAY", "WORK"} {
		path := filepath.Join(dir, name)
		if out, err := exec.CommandContext(t.Context(), "cp", "--sparse=always", part(name), path).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		drives = append(drives, fcapi.Drive{ID: name, Path: path, Cache: "Writeback"})
	}
	drives = append(drives, fcapi.Drive{ID: "modules", Path: part("MODULES"), ReadOnly: true})
	text, err := json.Marshal(map[string]any{
		"boot-source":    fcapi.BootSource{Kernel: part("KERNEL"), Initrd: part("INITRAMFS"), Args: kernelArguments},
		"machine-config": fcapi.MachineConfig{VCPU: 1, MemoryMiB: 512},
		"drives":         drives,
		"vsock":          fcapi.Vsock{CID: guestCID, Path: socket},
		"entropy":        struct{}{},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(config, text, 0o600); err != nil {
		t.Fatal(err)
	}
	var console bytes.Buffer
	cmd := exec.CommandContext(t.Context(), binary, "--no-api", "--config-file", config)
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = &console, &console, time.Second
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("%s", console.Bytes())
		}
	}()
	ctx, cancel := context.WithTimeout(t.Context(), speedTimeout)
	defer cancel()
	began := time.Now()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	guest := agent.New(func(ctx context.Context) (net.Conn, error) { return dialVsock(ctx, socket, wire.VsockPort) })
	for {
		attempt, stop := context.WithTimeout(ctx, handshakeTimeout)
		_, err := guest.Hello(attempt)
		stop()
		if err == nil {
			return time.Since(began)
		}
		if ctx.Err() != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Millisecond)
	}
}
