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
	"slices"
	"strconv"
	"testing"
	"time"

	"banger/internal/agent"
	"banger/internal/agent/wire"
	"banger/internal/vmm/firecracker/fcapi"
)

// speedTimeout bounds one measurement.
const speedTimeout = 5 * time.Minute

// TestRealSpeed compares a command of banger, which BANGER_TEST_COMMAND has as
// a script, with the least that it takes by hand: firecracker --config-file with
// the same kernel, initramfs and disks until the agent answers for the first
// time. The two take turns. The parts are named by variables as for
// [TestRealGuest]; OVERLAY and WORK are disks to copy.
func TestRealSpeed(t *testing.T) {
	binary, script := os.Getenv("BANGER_TEST_FIRECRACKER"), os.Getenv("BANGER_TEST_COMMAND")
	if binary == "" || script == "" {
		t.Skip("NOT MEASURED: BANGER_TEST_FIRECRACKER and BANGER_TEST_COMMAND name nothing; see test/lab")
	}
	rounds, err := strconv.Atoi(os.Getenv("BANGER_TEST_ROUNDS"))
	if err != nil {
		t.Fatal(err)
	}
	var bare, whole, ratios []float64
	for range rounds {
		b, w := bareBoot(t, binary), timed(t, func(ctx context.Context) error {
			out, err := exec.CommandContext(ctx, "sh", "-c", script).CombinedOutput()
			if err != nil {
				return fmt.Errorf("%w: %s", err, out)
			}
			return nil
		})
		bare, whole, ratios = append(bare, b), append(whole, w), append(ratios, w/b)
	}
	load, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(os.Stdout, "| firecracker --config-file to the agent's first answer, p50 of %d | %.2f s |\n| `%s`, p50 of %d | %.2f s |\n| that divided by the boot before it, p50 (each: %.2f) | %.2f |\nload average %s",
		rounds, median(bare), script, rounds, median(whole), ratios, median(ratios), load)
}

func median(values []float64) float64 {
	return slices.Sorted(slices.Values(values))[len(values)/2]
}

// timed returns how many seconds do takes.
func timed(t *testing.T, do func(ctx context.Context) error) float64 {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), speedTimeout)
	defer cancel()
	began := time.Now()
	if err := do(ctx); err != nil {
		t.Fatal(err)
	}
	return time.Since(began).Seconds()
}

// bareBoot boots the guest by hand.
func bareBoot(t *testing.T, binary string) float64 {
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
	return timed(t, func(ctx context.Context) error {
		if err := cmd.Start(); err != nil {
			return err
		}
		guest := agent.New(func(ctx context.Context) (net.Conn, error) { return dialVsock(ctx, socket, wire.VsockPort) })
		for {
			attempt, cancel := context.WithTimeout(ctx, handshakeTimeout)
			_, err := guest.Hello(attempt)
			cancel()
			if err == nil {
				return nil
			}
			if ctx.Err() != nil {
				return err
			}
			time.Sleep(5 * time.Millisecond)
		}
	})
}
