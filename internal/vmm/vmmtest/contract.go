package vmmtest

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"banger/internal/agent"
	"banger/internal/agent/wire"
	"banger/internal/vmm"
	"banger/internal/vmm/process"
)

// Harness is what [Run] needs to know about a driver.
type Harness struct {
	// Driver makes a driver. It is called again to play a bangerd that was
	// restarted.
	Driver func(tb testing.TB) vmm.Driver
	// Spec returns a VM that can be booted, with directories, disks and logs
	// of its own.
	Spec func(tb testing.TB) vmm.Spec
	// Agent says that the guest has an agent, Exec that it runs programs when
	// Configuration was sent to it.
	Agent, Exec bool
	// Kernel says that the driver reads the kernel: a fake need not.
	Kernel        bool
	Configuration wire.Configuration
	// Timeout bounds the wait for anything that is expected: generous.
	Timeout time.Duration
	// Serial says not to run VMs side by side.
	Serial bool
}

// Run holds a driver to the contract of package vmm.
func Run(t *testing.T, h Harness) {
	t.Helper()
	for _, test := range []struct {
		name string
		run  func(*testing.T, Harness)
	}{
		{"Boot", testBoot},
		{"Agent", testAgent},
		{"Shutdown", testShutdown},
		{"Crash", testCrash},
		{"Adopt", testAdopt},
		{"AdoptGone", testAdoptGone},
		{"Missing", testMissing},
		{"Canceled", testCanceled},
		{"BootOutlivesContext", testBootOutlivesContext},
	} {
		t.Run(test.name, func(t *testing.T) {
			if !h.Serial {
				t.Parallel()
			}
			test.run(t, h)
		})
	}
}

func (h Harness) context(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), h.Timeout)
	t.Cleanup(cancel)
	return ctx
}

// boot boots a VM that ends with the test, and shows its logs if that failed.
func (h Harness) boot(t *testing.T, driver vmm.Driver, spec vmm.Spec) vmm.Machine {
	t.Helper()
	m, err := driver.Boot(h.context(t), spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), h.Timeout)
		defer cancel()
		if p, err := process.Open(identity(m.Handle())); err == nil { // m may be closed
			if err := p.Kill(ctx); err != nil {
				t.Error(err)
			}
			_ = p.Close()
		}
		_ = m.Close()
		if t.Failed() {
			t.Logf("console:\n%s\nVMM:\n%s", end(spec.ConsoleLog), end(spec.VMMLog))
		}
	})
	return m
}

func end(path string) []byte {
	data, err := os.ReadFile(path)
	if err != nil {
		return []byte(err.Error())
	}
	return data[max(0, len(data)-4096):]
}

func identity(h vmm.Handle) process.Identity {
	return process.Identity{PID: h.PID, StartTime: h.StartTime, BootID: h.BootID}
}

// waitDone fails the test unless the machine ends.
func (h Harness) waitDone(t *testing.T, m vmm.Machine) {
	t.Helper()
	select {
	case <-m.Done():
	case <-h.context(t).Done():
		t.Fatal("the VMM has not ended")
	}
	if _, err := process.Open(identity(m.Handle())); !errors.Is(err, process.ErrGone) {
		t.Errorf("Done is closed, but the process: %v", err)
	}
}

func running(m vmm.Machine) bool {
	select {
	case <-m.Done():
		return false
	default:
		return true
	}
}

// client returns a client of the guest's agent once that answers.
func (h Harness) client(t *testing.T, m vmm.Machine) (*agent.Client, wire.Hello) {
	t.Helper()
	ctx := h.context(t)
	client := agent.New(m.DialAgent)
	for {
		hello, err := client.Hello(ctx)
		if err == nil {
			return client, hello
		}
		if !running(m) || ctx.Err() != nil {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func testBoot(t *testing.T, h Harness) {
	t.Helper()
	driver := h.Driver(t)
	if c := driver.Probe(h.context(t)); !c.Usable || c.Version == "" || c.Binary == "" {
		t.Fatalf("not usable: %+v", c)
	}
	spec := h.Spec(t)
	if err := os.WriteFile(spec.VMMLog, []byte("of the last boot"), 0o600); err != nil {
		t.Fatal(err)
	}
	m := h.boot(t, driver, spec)
	handle := m.Handle()
	if handle.Driver != driver.Name() || handle.RunDir != spec.RunDir || handle.Version == "" {
		t.Errorf("handle %+v", handle)
	}
	if !running(m) {
		t.Error("ended at once")
	}
	// A session of its own: what is meant for bangerd's does not reach it.
	if sid := session(t, handle.PID); sid != handle.PID {
		t.Errorf("process %d is in session %d", handle.PID, sid)
	}
	for _, log := range []string{spec.ConsoleLog, spec.VMMLog} {
		data, err := os.ReadFile(log)
		if err != nil || bytes.Contains(data, []byte("of the last boot")) {
			t.Errorf("log %q: %q, %v", log, data, err)
		}
	}
	for range 2 {
		if err := m.Kill(h.context(t)); err != nil {
			t.Errorf("kill: %v", err)
		}
	}
	h.waitDone(t, m)
	// The next boot in the same directory meets what the last one left.
	again := h.boot(t, driver, spec)
	if cmp.Equal(again.Handle(), handle) || !running(again) {
		t.Errorf("second boot: %+v", again.Handle())
	}
}

// session is field 6 of proc_pid_stat(5).
func session(t *testing.T, pid int) int {
	t.Helper()
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		t.Fatal(err)
	}
	fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
	sid, err := strconv.Atoi(fields[3])
	if err != nil {
		t.Fatal(err)
	}
	return sid
}

func testAgent(t *testing.T, h Harness) {
	t.Helper()
	if !h.Agent {
		t.Skip("this guest has no agent")
	}
	m := h.boot(t, h.Driver(t), h.Spec(t))
	client, first := h.client(t, m)
	if first.BootID == "" || first.Kernel == "" || first.Configured {
		t.Errorf("a fresh guest's hello: %+v", first)
	}
	errs := make(chan error)
	const calls = 20
	for range calls {
		go func() {
			again, err := client.Hello(h.context(t))
			if err == nil && again.BootID != first.BootID {
				err = errors.New("another guest answered")
			}
			errs <- err
		}()
	}
	for range calls {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	if err := client.Configure(h.context(t), h.Configuration); err != nil {
		t.Fatal(err)
	}
	if hello, err := client.Hello(h.context(t)); err != nil || !hello.Configured {
		t.Errorf("a configured guest's hello: %+v, %v", hello, err)
	}
	if h.Exec {
		h.exec(t, client, "echo out; echo err >&2; cat; exit 7", "in")
	}
	// A caller that does not wait does not break the others' channel.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if conn, err := m.DialAgent(ctx); err == nil {
		_ = conn.Close()
	}
	if _, err := client.Hello(h.context(t)); err != nil {
		t.Errorf("after a call that was canceled: %v", err)
	}
	if err := m.Cut(h.context(t)); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Hello(h.context(t)); err == nil {
		t.Error("a killed guest answers")
	}
	h.waitDone(t, m)
}

func (h Harness) exec(t *testing.T, client *agent.Client, script, stdin string) {
	t.Helper()
	var stdout, stderr bytes.Buffer
	p, err := client.Exec(h.context(t), wire.ExecRequest{Args: []string{"sh", "-c", script}},
		agent.Streams{Stdin: strings.NewReader(stdin), Stdout: &stdout, Stderr: &stderr})
	if err != nil {
		t.Fatal(err)
	}
	exit, err := p.Wait()
	if err != nil || exit.Code != 7 || stdout.String() != "out\n"+stdin || stderr.String() != "err\n" {
		t.Errorf("exit %+v, %v, stdout %q, stderr %q", exit, err, stdout.String(), stderr.String())
	}
}

func testShutdown(t *testing.T, h Harness) {
	t.Helper()
	if !h.Agent {
		t.Skip("this guest has no agent")
	}
	m := h.boot(t, h.Driver(t), h.Spec(t))
	client, _ := h.client(t, m)
	if err := client.Configure(h.context(t), h.Configuration); err != nil {
		t.Fatal(err)
	}
	if err := client.Shutdown(h.context(t), wire.Shutdown{}); err != nil {
		t.Fatal(err)
	}
	h.waitDone(t, m)
	if err := m.Kill(h.context(t)); err != nil {
		t.Errorf("kill of one that has ended: %v", err)
	}
}

func testCrash(t *testing.T, h Harness) {
	t.Helper()
	m := h.boot(t, h.Driver(t), h.Spec(t))
	if err := syscall.Kill(m.Handle().PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	h.waitDone(t, m)
	if conn, err := m.DialAgent(h.context(t)); err == nil {
		_ = conn.Close()
		t.Error("the agent of a VM that is gone was reached")
	}
	if err := m.Close(); err != nil {
		t.Error(err)
	}
}

func testAdopt(t *testing.T, h Harness) {
	t.Helper()
	first := h.boot(t, h.Driver(t), h.Spec(t))
	handle := first.Handle()
	var before wire.Hello
	if h.Agent {
		_, before = h.client(t, first)
	}
	for range 2 {
		if err := first.Close(); err != nil {
			t.Fatal(err)
		}
	}
	m, err := h.Driver(t).Adopt(h.context(t), handle)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = m.Close() }()
	if !cmp.Equal(m.Handle(), handle) || !running(m) {
		t.Errorf("adopted %+v, want %+v", m.Handle(), handle)
	}
	if h.Agent {
		if _, after := h.client(t, m); after.BootID != before.BootID {
			t.Errorf("hello %+v after, %+v before", after, before)
		}
	}
	if err := m.Kill(h.context(t)); err != nil {
		t.Fatal(err)
	}
	h.waitDone(t, m)
}

func testAdoptGone(t *testing.T, h Harness) {
	t.Helper()
	driver := h.Driver(t)
	m := h.boot(t, driver, h.Spec(t))
	handle := m.Handle()
	reused, rebooted, foreign := handle, handle, handle
	reused.StartTime--
	rebooted.BootID = "another"
	foreign.PID = 1
	if err := m.Kill(h.context(t)); err != nil {
		t.Fatal(err)
	}
	for name, gone := range map[string]vmm.Handle{
		"ended": handle, "pid used again": reused, "host booted again": rebooted, "another process": foreign,
	} {
		if adopted, err := driver.Adopt(h.context(t), gone); !errors.Is(err, vmm.ErrGone) || adopted != nil {
			t.Errorf("%s: %v, %v, want %v", name, adopted, err, vmm.ErrGone)
		}
	}
}

// undone fails the test if a boot that failed left anything.
func (h Harness) undone(t *testing.T, spec vmm.Spec) {
	t.Helper()
	entries, err := os.ReadDir(spec.RunDir)
	if err != nil || len(entries) > 0 {
		t.Errorf("the run directory holds %v, %v", entries, err)
	}
	processes, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range processes {
		line, err := os.ReadFile(path)
		if err == nil && bytes.Contains(line, []byte(spec.RunDir)) {
			t.Errorf("still running: %q", line)
		}
	}
}

func testMissing(t *testing.T, h Harness) {
	t.Helper()
	driver := h.Driver(t)
	for _, test := range []struct {
		name  string
		spoil func(*vmm.Spec)
	}{
		{"kernel", func(s *vmm.Spec) { s.Kernel = "/nonexistent/kernel" }},
		{"disk", func(s *vmm.Spec) { s.Disks = append(s.Disks, vmm.Disk{Path: "/nonexistent/disk"}) }},
	} {
		if test.name == "kernel" && !h.Kernel {
			continue
		}
		spec := h.Spec(t)
		test.spoil(&spec)
		m, err := driver.Boot(h.context(t), spec)
		if err == nil {
			_ = m.Kill(h.context(t))
			t.Errorf("%s: booted all the same", test.name)
			continue
		}
		if m != nil || !strings.Contains(err.Error(), test.name) {
			t.Errorf("%s: %v, error %v", test.name, m, err)
		}
		h.undone(t, spec)
	}
}

func testCanceled(t *testing.T, h Harness) {
	t.Helper()
	driver := h.Driver(t)
	// From before the start to after its end.
	for _, after := range []time.Duration{0, time.Millisecond, 10 * time.Millisecond, 40 * time.Millisecond} {
		spec := h.Spec(t)
		ctx, cancel := context.WithCancel(t.Context())
		timer := time.AfterFunc(after, cancel)
		m, err := driver.Boot(ctx, spec)
		timer.Stop()
		cancel()
		if err == nil { // it was quicker
			if err := m.Kill(h.context(t)); err != nil {
				t.Error(err)
			}
			continue
		}
		if !errors.Is(err, context.Canceled) {
			t.Errorf("after %v: %v", after, err)
		}
		h.undone(t, spec)
	}
}

func testBootOutlivesContext(t *testing.T, h Harness) {
	t.Helper()
	driver, spec := h.Driver(t), h.Spec(t)
	ctx, cancel := context.WithCancel(h.context(t))
	defer cancel()
	m, err := driver.Boot(ctx, spec)
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	defer func() {
		if err := m.Kill(h.context(t)); err != nil {
			t.Error(err)
		}
	}()
	if h.Agent {
		h.client(t, m)
	}
	if !running(m) {
		t.Error("the VM ended with the context of its boot")
	}
}
