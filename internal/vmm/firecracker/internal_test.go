package firecracker

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"banger/internal/vmm"
)

var update = flag.Bool("update", false, "write the golden files")

func TestPlan(t *testing.T) {
	t.Parallel()
	p, err := planOf(vmm.Spec{
		ID: "ab", RunDir: "/run/ab", Kernel: "/k", Initramfs: "/i", Cmdline: "more=1", VCPU: 2, MemoryMiB: 512,
		Disks: []vmm.Disk{{Path: "/d/root", ReadOnly: true}, {Path: "/d/overlay"}, {Path: "/d/work", Volatile: true}},
		NIC:   &vmm.NIC{Mode: vmm.NetworkTAP, TAP: "bng0", MAC: "02:00:00:00:00:02"},
	})
	if err != nil {
		t.Fatal(err)
	}
	got, err := json.MarshalIndent([]any{p.machine, p.boot, p.drives, p.nic, p.vsock}, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	golden := filepath.Join("testdata", "plan.golden")
	if *update {
		if err := os.WriteFile(golden, append(got, '\n'), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)+"\n"); diff != "" {
		t.Error(diff)
	}
	if len(p.boot.Args) > 1900 {
		t.Errorf("kernel arguments of %d bytes: firecracker takes 2048 with its own", len(p.boot.Args))
	}
}

// answering plays Firecracker's end of one vsock connection.
func answering(t *testing.T, play func(conn net.Conn)) string {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "v")
	listener, err := new(net.ListenConfig).Listen(t.Context(), "unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer func() { _ = conn.Close() }()
		play(conn)
	}()
	return socket
}

func readAsk(t *testing.T, conn net.Conn) {
	t.Helper()
	// In one piece: firecracker reads without waiting.
	buffer := make([]byte, 64)
	n, err := conn.Read(buffer)
	if err != nil || string(buffer[:n]) != "CONNECT 1024\n" {
		t.Errorf("asked %q, %v", buffer[:n], err)
	}
}

// A guest that speaks first, in the same packet as the answer, loses nothing.
func TestVsockGuestSpeaksFirst(t *testing.T) {
	t.Parallel()
	const banner = "SSH-2.0-OpenSSH_9.9\r\n"
	socket := answering(t, func(conn net.Conn) {
		readAsk(t, conn)
		_, _ = io.WriteString(conn, "OK 1073741824\n"+banner)
		_, _ = io.Copy(conn, conn)
	})
	conn, err := dialVsock(t.Context(), socket, 1024)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if _, err := io.WriteString(conn, "more"); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(banner)+4)
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != banner+"more" {
		t.Errorf("read %q, %v", got, err)
	}
}

func TestVsockRefused(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]string{
		"nothing listens": "", "half a line": "OK 10", "another word": "NO 1\n", "no number": "OK x\n", "no end": strings.Repeat("O", 100),
	} {
		socket := answering(t, func(conn net.Conn) {
			readAsk(t, conn)
			_, _ = io.WriteString(conn, answer)
		})
		if conn, err := dialVsock(t.Context(), socket, 1024); err == nil {
			_ = conn.Close()
			t.Errorf("%s: connected", name)
		} else if !strings.Contains(err.Error(), "cannot reach the guest") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A guest that does not run leaves a connection hanging.
func TestVsockHangs(t *testing.T) {
	t.Parallel()
	end := make(chan struct{})
	defer close(end)
	socket := answering(t, func(net.Conn) { <-end })
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := dialVsock(ctx, socket, 1024); err == nil {
		t.Error("connected")
	}
	ctx, cancelNow := context.WithCancel(t.Context())
	cancelNow()
	if _, err := dialVsock(ctx, socket, 1024); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
}

// The stream is the caller's: it does not end with the context of the dialling.
func TestVsockOutlivesContext(t *testing.T) {
	t.Parallel()
	socket := answering(t, func(conn net.Conn) {
		readAsk(t, conn)
		_, _ = io.WriteString(conn, "OK 1073741824\n")
		_, _ = io.Copy(conn, conn)
	})
	ctx, cancel := context.WithCancel(t.Context())
	conn, err := dialVsock(ctx, socket, 1024)
	cancel()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if _, err := io.WriteString(conn, "x"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
		t.Error(err)
	}
}

func FuzzReadLine(f *testing.F) {
	for _, seed := range []string{"OK 1\n", "OK 1\nrest", "", "\n", strings.Repeat("x", 40)} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		reader := strings.NewReader(string(data))
		line, err := readLine(reader)
		if err != nil {
			return
		}
		rest, err := io.ReadAll(reader)
		if err != nil || line+"\n"+string(rest) != string(data) {
			t.Errorf("line %q, then %q of %q", line, rest, data)
		}
	})
}

func TestVersions(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"Firecracker v1.12.1\n\n2026-11-28T21:17:20 [anonymous-instance:main] Firecracker exiting successfully. exit_code=0": "1.12.1",
		"Firecracker v1.17.0-dev\n": "1.17.0", "Firecracker v1.9\n": "", "firecracker 1.2.3": "", "": "", "x\nFirecracker v1.12.1": "",
	} {
		if got, ok := ParseVersion(text); got != want || ok != (want != "") {
			t.Errorf("%q: %q, %v", text, got, ok)
		}
	}
	for _, test := range []struct {
		a, b string
		want bool
	}{{"1.12.1", "1.12", false}, {"1.11.9", "1.12", true}, {"1.9.0", "1.12", true}, {"2.0.0", "1.16.1", false}, {"1.16.0", "1.16.1", true}, {"1.16.1", "1.16.1", false}} {
		if got := Before(test.a, test.b); got != test.want {
			t.Errorf("%s before %s: %v", test.a, test.b, got)
		}
	}
}

func FuzzParseVersion(f *testing.F) {
	f.Add("Firecracker v1.12.1\n")
	f.Fuzz(func(t *testing.T, text string) {
		if version, ok := ParseVersion(text); ok && (Before(version, "0.0.0") || !strings.Contains(text, version)) {
			t.Errorf("%q from %q", version, text)
		}
	})
}
