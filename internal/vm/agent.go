package vm

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"time"

	"banger/internal/agent"
	"banger/internal/api"
	"banger/internal/network/forward"
	"banger/internal/store"
)

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

// DialAgent opens a byte stream to the agent of a running VM, for a user: a VM
// that is borrowed runs on.
func (m *Manager) DialAgent(ctx context.Context, ref string) (net.Conn, error) {
	e, err := m.resolve(ref)
	if err != nil {
		return nil, err
	}
	s, err := m.running(ref)
	if err != nil {
		return nil, err
	}
	if err := m.keepRunning(ctx, e); err != nil {
		return nil, err
	}
	conn, err := s.machine.DialAgent(ctx)
	if err != nil {
		return nil, fmt.Errorf("cannot reach the guest of VM %q: %w", s.record.Name, err)
	}
	return conn, nil
}

// portsTimeout is how long a port that has only just appeared may take to be
// served before it is shown without.
const portsTimeout = 2 * time.Second

// Ports returns what the guest listens on, and where that is on this host.
func (m *Manager) Ports(ctx context.Context, ref string) ([]api.Port, error) {
	s, err := m.running(ref)
	if err != nil {
		return nil, err
	}
	found, err := agent.New(s.machine.DialAgent).Ports(ctx)
	if err != nil {
		return nil, fmt.Errorf("cannot list the ports of VM %q: %w", s.record.Name, err)
	}
	served := map[int]forward.Port{}
	if s.forwarding != nil {
		ctx, cancel := context.WithTimeout(ctx, portsTimeout)
		defer cancel()
		for _, port := range s.forwarding.Ports(ctx, found) {
			served[port.Guest] = port
		}
	}
	ports := make([]api.Port, 0, len(found)) // in JSON, an empty list
	for _, port := range found {
		shown := api.Port{Port: port}
		bound, err := netip.ParseAddr(port.Address)
		switch at := served[port.Port]; {
		case s.onBridge() && err == nil && !bound.IsLoopback():
			shown.Host = net.JoinHostPort(s.record.Address, strconv.Itoa(port.Port))
		case at.Err != nil:
			shown.Error = at.Err.Error()
		case at.Host.IsValid():
			shown.Host, shown.Elsewhere = at.Host.String(), at.Elsewhere
		}
		ports = append(ports, shown)
	}
	return ports, nil
}

// forward begins to serve the ports of a guest that was configured.
func (m *Manager) forward(e *entry) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.config.Forward == nil || e.machine == nil || e.forwarding != nil {
		return
	}
	address, err := loopback(e.record)
	if err != nil {
		m.log.Error("cannot serve the ports of a VM", "vm", e.record.Name, "error", err)
		return
	}
	e.forwarding = m.config.Forward(agent.New(e.machine.DialAgent), address)
}

// loopback is the address of this host that stands for a VM, for life.
func loopback(record store.VM) (netip.Addr, error) {
	guest, err := netip.ParseAddr(record.Address)
	if err != nil {
		return netip.Addr{}, fmt.Errorf("cannot tell the loopback address of VM %q: %w", record.Name, err)
	}
	return forward.Address(os.Getuid(), guest)
}

// Stats returns what a running VM uses, as the guest and as the host see it.
func (m *Manager) Stats(ctx context.Context, ref string) (api.Stats, error) {
	s, err := m.running(ref)
	if err != nil {
		return api.Stats{}, err
	}
	stats := api.Stats{VM: s.record.Name}
	if stats.Guest, err = agent.New(s.machine.DialAgent).Stats(ctx); err != nil {
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
// an empty one means, "vmm", "metrics" or "network".
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
	case "metrics":
		return metricsLog(dir), nil
	case "network":
		return networkLog(dir), nil
	}
	return "", &api.Error{Kind: api.KindUsage, Message: fmt.Sprintf("cannot show the log %q: there are console, vmm, metrics and network", source)}
}
