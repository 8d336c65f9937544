package usernet

import (
	"bufio"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/network/policy"
	"banger/internal/network/usernet/guesttest"
	"banger/internal/vmm/process"
)

// startProcess runs the test binary as a network.
func startProcess(t *testing.T, allowed policy.Policy, open ...Relay) (*process.Process, Options) {
	t.Helper()
	executable, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "usernet") //nolint:usetesting // TempDir's paths can be too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	options := Options{
		Program: executable, Socket: filepath.Join(dir, "network.sock"), Log: filepath.Join(dir, "log"),
		Guest: guestPrefix, Gateway: gateway, Policy: allowed, Relays: open,
		Start: process.Start,
	}
	p, err := Start(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.Kill(t.Context())
		p.Close()
		if log, err := os.ReadFile(options.Log); err == nil && t.Failed() {
			t.Logf("the network's log:\n%s", log)
		}
		os.RemoveAll(dir)
	})
	return p, options
}

func connect(t *testing.T, options Options) net.Conn {
	t.Helper()
	conn, err := new(net.Dialer).DialContext(t.Context(), "unix", options.Socket)
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

func awaitEnd(t *testing.T, p *process.Process) {
	t.Helper()
	select {
	case <-p.Done():
	case <-time.After(patience):
		t.Error("the process does not end")
	}
}

func TestProcess(t *testing.T) {
	t.Parallel()
	p, options := startProcess(t, policy.Policy{Host: true})
	conn := connect(t, options)
	guest := guesttest.New(t, conn, guestPrefix, gateway, MTU)

	// With Policy.Host the gateway's address is the host's loopback.
	server := serveTCP(t, echo)
	port, err := strconv.ParseUint(server[strings.LastIndexByte(server, ':')+1:], 10, 16)
	if err != nil {
		t.Fatal(err)
	}
	echoed, err := dial(t, guest, gateway, uint16(port))
	if err != nil {
		t.Fatal(err)
	}
	line := "through the process\n"
	echoed.Write([]byte(line))
	if got, err := bufio.NewReader(echoed).ReadString('\n'); got != line {
		t.Errorf("got %q, %v", got, err)
	}
	if _, err := dial(t, guest, netip.MustParseAddr("10.0.0.1"), 80); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("a private address: the guest sees %v in place of a refusal", err)
	}
	status := procStatus(t, p.Identity().PID)
	for _, field := range []string{"CapInh", "CapPrm", "CapEff", "CapAmb"} {
		if value, err := strconv.ParseUint(status[field], 16, 64); err != nil || value != 0 {
			t.Errorf("%s is %q, %v", field, status[field], err)
		}
	}
	if status["NoNewPrivs"] != "1" {
		t.Errorf("NoNewPrivs is %q", status["NoNewPrivs"])
	}
	if log, _ := os.ReadFile(options.Log); !strings.Contains(string(log), "cannot restrict system calls") && status["Seccomp"] != "2" {
		t.Errorf("Seccomp is %q", status["Seccomp"])
	}
	if os.Geteuid() == 0 && strings.HasPrefix(status["Uid"], "0") {
		t.Errorf("it runs as %q", status["Uid"])
	}
	select {
	case <-p.Done():
		t.Fatal("the process ended too early")
	default:
	}
	conn.Close()
	awaitEnd(t, p)
}

// TestRelay: one service of the host is open, and nothing beside it.
func TestRelay(t *testing.T) {
	t.Parallel()
	open, closed := netip.MustParseAddrPort(serveTCP(t, echo)), netip.MustParseAddrPort(serveTCP(t, echo))
	const port = 3128
	_, options := startProcess(t, policy.Policy{}, Relay{From: netip.AddrPortFrom(gateway, port), To: open})
	conn := connect(t, options)
	defer conn.Close()
	guest := guesttest.New(t, conn, guestPrefix, gateway, MTU)
	echoed, err := dial(t, guest, gateway, port)
	if err != nil {
		t.Fatal(err)
	}
	line := "through the relay\n"
	echoed.Write([]byte(line))
	if got, err := bufio.NewReader(echoed).ReadString('\n'); got != line {
		t.Errorf("got %q, %v", got, err)
	}
	for _, to := range []netip.AddrPort{
		netip.AddrPortFrom(gateway, open.Port()), netip.AddrPortFrom(gateway, closed.Port()), netip.MustParseAddrPort("10.0.0.1:3128"),
	} {
		if _, err := dial(t, guest, to.Addr(), to.Port()); err == nil || !strings.Contains(err.Error(), "refused") {
			t.Errorf("%v: the guest sees %v in place of a refusal", to, err)
		}
	}
	if err := guest.ProbeUDP(t.Context(), netip.AddrPortFrom(gateway, port)); err == nil {
		t.Error("the relay takes UDP")
	}
}

// procStatus reads proc_pid_status(5).
func procStatus(t *testing.T, pid int) map[string]string {
	t.Helper()
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		t.Fatal(err)
	}
	fields := map[string]string{}
	for line := range strings.Lines(string(data)) {
		name, value, _ := strings.Cut(line, ":")
		fields[name] = strings.TrimSpace(value)
	}
	return fields
}

func TestProcessOneConnection(t *testing.T) {
	t.Parallel()
	p, options := startProcess(t, policy.Policy{})
	conn := connect(t, options)
	guest := guesttest.New(t, conn, guestPrefix, gateway, MTU)
	if _, err := dial(t, guest, gateway, 22); err == nil {
		t.Fatal("a service of the host was reached")
	}
	// A child that another test is just starting holds the socket until its
	// exec.
	for limit := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		second, err := new(net.Dialer).DialContext(t.Context(), "unix", options.Socket)
		if err != nil {
			break
		}
		second.Close()
		if time.Now().After(limit) {
			t.Fatal("a second connection is accepted")
		}
	}
	conn.Close()
	awaitEnd(t, p)
}

func TestProcessTerminates(t *testing.T) {
	t.Parallel()
	for _, connected := range []bool{false, true} {
		p, options := startProcess(t, policy.Policy{})
		if connected {
			conn := connect(t, options)
			guest := guesttest.New(t, conn, guestPrefix, gateway, MTU)
			if _, err := dial(t, guest, gateway, 22); err == nil {
				t.Fatal("a service of the host was reached")
			}
		}
		if err := unix.Kill(p.Identity().PID, unix.SIGTERM); err != nil {
			t.Fatal(err)
		}
		awaitEnd(t, p)
	}
}

func TestStartFails(t *testing.T) {
	t.Parallel()
	executable, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	socket := filepath.Join("/tmp", filepath.Base(dir)+strconv.Itoa(os.Getpid())+".sock")
	_, err = Start(t.Context(), Options{Program: executable, Socket: socket, Log: filepath.Join(dir, "log"), Guest: guestPrefix, Start: process.Start})
	if err == nil || !strings.Contains(err.Error(), "gateway") {
		t.Errorf("Start returns %v", err)
	}
	if _, err := os.Lstat(socket); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is left: %v", err)
	}
}
