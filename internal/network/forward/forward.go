// Package forward lets the host reach what guests listen on. Each VM has an
// address of its own in 127.0.0.0/8; what listens on TCP in the guest appears
// there by itself, and goes when it stops listening. Connections are carried
// through the agent channel and made anew inside the guest, so that no network
// is needed and nobody but this host can get there.
package forward

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"

	"banger/internal/agent"
	"banger/internal/agent/wire"
)

const (
	// maxPorts bounds the listeners for one guest, maxConns its connections:
	// each takes a descriptor of bangerd.
	maxPorts = 256
	maxConns = 1024
	// alternative is added to a port that cannot be had.
	alternative = 10000
	// firstRetry and lastRetry are the pauses after a lost watch.
	firstRetry, lastRetry = 100 * time.Millisecond, 3 * time.Second
)

// Port is a port of the guest with what serves it on the host.
type Port struct {
	// Guest is the guest's port, Host where it is served.
	Guest int
	Host  netip.AddrPort
	// Elsewhere is why Host has another port than the guest's, empty if not.
	Elsewhere string
	// Err is why nothing serves it; Host is invalid then.
	Err error
}

// Forwarder serves the ports of one running guest. Its methods may be called
// from any goroutine.
type Forwarder struct {
	guest   *agent.Client
	address netip.Addr
	log     *slog.Logger
	ctx     context.Context
	cancel  context.CancelFunc
	// conns holds a token for each connection.
	conns chan struct{}

	mu      sync.Mutex
	closed  bool
	served  map[int]*served
	changed chan struct{} // closed and made anew after each change
	wait    sync.WaitGroup
}

// served is one port.
type served struct {
	port     int
	listener net.Listener // nil if there is none
	err      error
	// elsewhere is why the listener has another port.
	elsewhere string
	// targets are the guest's addresses to try. They are replaced, never
	// changed.
	targets []string
}

// Start begins to serve a guest's ports on an address of the host, until
// Close.
func Start(guest *agent.Client, address netip.Addr, log *slog.Logger) *Forwarder {
	ctx, cancel := context.WithCancel(context.Background())
	f := &Forwarder{
		guest: guest, address: address, log: log, ctx: ctx, cancel: cancel,
		conns: make(chan struct{}, maxConns), served: map[int]*served{}, changed: make(chan struct{}),
	}
	f.wait.Go(f.watch)
	return f
}

// Close ends all listeners and, soon after, all connections. It does not wait
// for the guest.
func (f *Forwarder) Close() {
	f.cancel()
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	for _, s := range f.served {
		s.close()
	}
	clear(f.served)
	f.notify()
}

// Wait waits, after Close, until nothing of the Forwarder runs any more.
func (f *Forwarder) Wait() { f.wait.Wait() }

// Address is where the guest's ports are served.
func (f *Forwarder) Address() netip.Addr { return f.address }

// Ports returns what is served, by port. It waits until everything in want is,
// but no longer than ctx.
func (f *Forwarder) Ports(ctx context.Context, want []wire.Port) []Port {
	for {
		f.mu.Lock()
		changed := f.changed
		ports := make([]Port, 0, len(f.served))
		for _, s := range f.served {
			port := Port{Guest: s.port, Elsewhere: s.elsewhere, Err: s.err}
			if s.listener != nil {
				port.Host = s.listener.Addr().(*net.TCPAddr).AddrPort()
			}
			ports = append(ports, port)
		}
		missing := !f.closed && slices.ContainsFunc(want, func(p wire.Port) bool { return f.served[p.Port] == nil })
		f.mu.Unlock()
		slices.SortFunc(ports, func(a, b Port) int { return cmp.Compare(a.Guest, b.Guest) })
		if !missing {
			return ports
		}
		select {
		case <-ctx.Done():
			return ports
		case <-changed:
		}
	}
}

// notify wakes those who wait for a change; f.mu is held.
func (f *Forwarder) notify() {
	close(f.changed)
	f.changed = make(chan struct{})
}

func (f *Forwarder) watch() {
	for pause := firstRetry; ; pause = min(2*pause, lastRetry) {
		err := f.guest.WatchPorts(f.ctx, func(ports []wire.Port) {
			pause = firstRetry
			f.update(ports)
		})
		if f.ctx.Err() != nil {
			return
		}
		f.log.DebugContext(f.ctx, "the watch of a guest's ports was lost", "address", f.address, "error", err)
		select {
		case <-f.ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

// update makes what is served what the guest listens on.
func (f *Forwarder) update(ports []wire.Port) {
	targets := targetsOf(ports)
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return
	}
	listening := 0
	for port, s := range f.served {
		switch {
		case targets[port] == nil:
			s.close()
			delete(f.served, port)
		case s.listener != nil:
			listening++
		}
	}
	for _, p := range ports { // in their order, so that the bound hits the same ones
		s := f.served[p.Port]
		if targets[p.Port] == nil { // not a port
			continue
		}
		if s != nil && s.listener != nil {
			s.targets = targets[p.Port]
			continue
		}
		next := &served{port: p.Port, targets: targets[p.Port]}
		f.served[p.Port] = next
		if listening == maxPorts {
			next.err = fmt.Errorf("the guest listens on more than %d ports", maxPorts)
			continue
		}
		next.listener, next.elsewhere, next.err = f.listen(p.Port)
		if next.err == nil {
			listening++
			f.wait.Go(func() { f.accept(next) })
		} else if s == nil {
			f.log.WarnContext(f.ctx, "a port of a guest cannot be served", "address", f.address, "port", p.Port, "error", next.err)
		}
	}
	f.notify()
}

// listen takes the port, or another one where the user may not have it or
// somebody else has, and says which it was. Nothing but f's own address is ever
// bound.
func (f *Forwarder) listen(port int) (_ net.Listener, elsewhere string, _ error) {
	tries := []int{port}
	if port+alternative <= 0xffff {
		tries = append(tries, port+alternative)
	}
	var listener net.Listener
	var err error
	for _, try := range append(tries, 0) {
		listener, err = new(net.ListenConfig).Listen(f.ctx, "tcp4", netip.AddrPortFrom(f.address, uint16(try)).String())
		if err == nil {
			return listener, elsewhere, nil
		}
		denied := errors.Is(err, syscall.EACCES)
		if !denied && !errors.Is(err, syscall.EADDRINUSE) {
			break
		}
		switch {
		case try != port:
		case denied:
			elsewhere = fmt.Sprintf("you may not have port %d", port)
		default:
			elsewhere = fmt.Sprintf("something else has port %d", port)
		}
	}
	return nil, "", fmt.Errorf("cannot listen for the guest's port %d: %w", port, err)
}

func (s *served) close() {
	if s.listener != nil {
		_ = s.listener.Close() // of a listener that is closed once
	}
}

// targetsOf returns, for each port, the addresses in the guest that lead to
// it, the best one first.
func targetsOf(ports []wire.Port) map[int][]string {
	byPort := map[int][]netip.Addr{}
	for _, p := range ports {
		address, err := netip.ParseAddr(p.Address)
		if err != nil || p.Port < 1 || p.Port > 0xffff {
			continue
		}
		// What listens everywhere does on the loopback interface.
		switch address {
		case netip.IPv4Unspecified():
			byPort[p.Port] = append(byPort[p.Port], netip.AddrFrom4([4]byte{127, 0, 0, 1}))
		case netip.IPv6Unspecified(): // mostly for IPv4 as well
			byPort[p.Port] = append(byPort[p.Port], netip.AddrFrom4([4]byte{127, 0, 0, 1}), netip.IPv6Loopback())
		default:
			byPort[p.Port] = append(byPort[p.Port], address)
		}
	}
	targets := map[int][]string{}
	for port, addresses := range byPort {
		slices.SortStableFunc(addresses, func(a, b netip.Addr) int { return rank(a) - rank(b) })
		for _, address := range slices.Compact(addresses) {
			targets[port] = append(targets[port], netip.AddrPortFrom(address, uint16(port)).String())
			if len(targets[port]) == maxTargets {
				break
			}
		}
	}
	return targets
}

const maxTargets = 4

func rank(address netip.Addr) int {
	switch {
	case address == netip.AddrFrom4([4]byte{127, 0, 0, 1}):
		return 0
	case address.IsLoopback():
		return 1
	}
	return 2
}
