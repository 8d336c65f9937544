package vm

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"

	"banger/internal/agent/wire"
	"banger/internal/api"
	"banger/internal/vmm"
)

// agentClient makes the calls to a guest's agent that the core itself needs.
type agentClient struct {
	transport *http.Transport
}

func newAgent(machine vmm.Machine) *agentClient {
	return &agentClient{transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return machine.DialAgent(ctx) },
		// One after the other, on one stream.
		MaxIdleConnsPerHost: 1,
	}}
}

func (a *agentClient) close() { a.transport.CloseIdleConnections() }

// maxAgentAnswer bounds what a guest can make bangerd hold in memory.
const maxAgentAnswer = 4 << 20

func (a *agentClient) call(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		data, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(data)
	}
	request, err := http.NewRequestWithContext(ctx, method, "http://agent"+path, body)
	if err != nil {
		return err
	}
	response, err := a.transport.RoundTrip(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	data, err := io.ReadAll(io.LimitReader(response.Body, maxAgentAnswer))
	if err != nil {
		return err
	}
	if response.StatusCode >= http.StatusBadRequest {
		var failed wire.Error
		if json.Unmarshal(data, &failed) == nil && failed.Message != "" {
			return &failed
		}
		return errors.New("the agent answered " + response.Status)
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(data, out); err != nil {
		return fmt.Errorf("the agent's answer makes no sense: %w", err)
	}
	return nil
}

func (a *agentClient) hello(ctx context.Context) (hello wire.Hello, err error) {
	return hello, a.call(ctx, http.MethodGet, "/v1/hello", nil, &hello)
}

func (a *agentClient) configure(ctx context.Context, configuration wire.Configuration) error {
	return a.call(ctx, http.MethodPut, "/v1/configuration", configuration, nil)
}

func (a *agentClient) shutdown(ctx context.Context) error {
	return a.call(ctx, http.MethodPost, "/v1/shutdown", wire.Shutdown{}, nil)
}

// running returns the machine of a VM that runs.
func (m *Manager) running(ref string) (snapshot, error) {
	e, err := m.resolve(ref)
	if err != nil {
		return snapshot{}, err
	}
	s := m.look(e)
	if s.machine == nil || s.state == api.StateStarting {
		state := "it does not run"
		if s.state == api.StateStarting {
			state = "it is still starting"
		}
		return snapshot{}, &api.Error{
			Kind:    api.KindState,
			Message: fmt.Sprintf("cannot reach the VM %q: %s", s.record.Name, state),
			Hint:    "start it with: banger vm start " + s.record.Name,
		}
	}
	return s, nil
}

// DialAgent opens a byte stream to the agent of a running VM.
func (m *Manager) DialAgent(ctx context.Context, ref string) (net.Conn, error) {
	s, err := m.running(ref)
	if err != nil {
		return nil, err
	}
	conn, err := s.machine.DialAgent(ctx)
	if err != nil {
		return nil, fmt.Errorf("cannot reach the guest of VM %q: %w", s.record.Name, err)
	}
	return conn, nil
}

// Ports returns what the guest listens on.
func (m *Manager) Ports(ctx context.Context, ref string) ([]wire.Port, error) {
	s, err := m.running(ref)
	if err != nil {
		return nil, err
	}
	agent := newAgent(s.machine)
	defer agent.close()
	ports := []wire.Port{}
	if err := agent.call(ctx, http.MethodGet, "/v1/ports", nil, &ports); err != nil {
		return nil, fmt.Errorf("cannot list the ports of VM %q: %w", s.record.Name, err)
	}
	return ports, nil
}

// Stats returns what a running VM uses, as the guest and as the host see it.
func (m *Manager) Stats(ctx context.Context, ref string) (api.Stats, error) {
	s, err := m.running(ref)
	if err != nil {
		return api.Stats{}, err
	}
	agent := newAgent(s.machine)
	defer agent.close()
	stats := api.Stats{VM: s.record.Name}
	if err := agent.call(ctx, http.MethodGet, "/v1/stats", nil, &stats.Guest); err != nil {
		return api.Stats{}, fmt.Errorf("cannot get the figures of VM %q: %w", s.record.Name, err)
	}
	if stats.HostMemory, stats.HostCPUSecond, err = processUse(s.machine.Handle().PID); err != nil {
		return api.Stats{}, fmt.Errorf("cannot get the figures of the VMM of %q: %w", s.record.Name, err)
	}
	return stats, nil
}

// processUse reads a process's resident memory in bytes and its CPU time in
// seconds from proc_pid_stat(5).
func processUse(pid int) (memory int64, seconds float64, err error) {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, 0, err
	}
	return parseUse(string(data))
}

func parseUse(stat string) (memory int64, seconds float64, err error) {
	// The second field, in parentheses, may hold anything.
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	const first, utime, stime, rss, ticks = 3, 14, 15, 24, 100
	if len(fields) <= rss-first {
		return 0, 0, fmt.Errorf("unexpected content of its stat file: %.80q", stat)
	}
	var values [3]int64
	for i, field := range []int{utime, stime, rss} {
		if values[i], err = strconv.ParseInt(fields[field-first], 10, 64); err != nil {
			return 0, 0, fmt.Errorf("unexpected content of its stat file: %w", err)
		}
	}
	return values[2] * int64(os.Getpagesize()), float64(values[0]+values[1]) / ticks, nil
}

// LogPath is the file with a VM's log: source is "console", which is also what
// an empty one means, or "vmm".
func (m *Manager) LogPath(ref, source string) (string, error) {
	e, err := m.resolve(ref)
	if err != nil {
		return "", err
	}
	dir := m.config.Dirs.VM(m.look(e).record.ID)
	switch source {
	case "", "console":
		return consoleLog(dir), nil
	case "vmm":
		return vmmLog(dir), nil
	}
	return "", &api.Error{Kind: api.KindUsage, Message: fmt.Sprintf("cannot show the log %q: there are console and vmm", source)}
}
