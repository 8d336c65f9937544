package daemon

import (
	"context"
	"log/slog"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"time"

	"banger/internal/agent"
	"banger/internal/api"
	"banger/internal/network/dns"
	"banger/internal/network/forward"
	"banger/internal/vm"
)

const resolvConf = "/etc/resolv.conf"

// wiredTimeout bounds the question whether the host's resolver knows NAME.vm,
// wiredAge how long the answer is kept.
const (
	wiredTimeout = time.Second
	wiredAge     = 10 * time.Second
)

// forwarder serves the ports of guests on this host.
func forwarder(log *slog.Logger) func(*agent.Client, netip.Addr) vm.Forwarding {
	return func(guest *agent.Client, loopback netip.Addr) vm.Forwarding {
		return forward.Start(guest, loopback, log)
	}
}

// serveNames answers questions about NAME.vm, until the returned function is
// called. Where the port is taken bangerd does without: that is logged, and
// `banger doctor` says so.
func (d *daemon) serveNames(ctx context.Context, port int) (stop func()) {
	if port == 0 {
		return func() {}
	}
	server, err := dns.Listen(ctx, port, dns.Owner(os.Getuid()), d.vms.Lookup, d.log)
	if err != nil {
		d.log.WarnContext(ctx, "names of VMs are not answered", "port", port, "error", err)
		return func() {}
	}
	return func() {
		if err := server.Close(); err != nil { //nolint:contextcheck // by then ctx has ended
			d.log.WarnContext(ctx, "cannot end the DNS server", "error", err)
		}
	}
}

// names knows, for a while, whether NAME.vm works on this host.
type names struct {
	mu    sync.Mutex
	asked time.Time
	wired bool
}

func (n *names) work(ctx context.Context) bool {
	n.mu.Lock()
	known, wired := time.Since(n.asked) < wiredAge, n.wired
	n.mu.Unlock()
	if known {
		return wired
	}
	ctx, cancel := context.WithTimeout(ctx, wiredTimeout)
	defer cancel()
	owner, err := dns.Wired(ctx, resolvConf)
	wired = err == nil && owner == dns.Owner(os.Getuid())
	n.mu.Lock()
	defer n.mu.Unlock()
	n.asked, n.wired = time.Now(), wired
	return wired
}

// ports lists a VM's ports with URLs that work on this host.
func (s *Server) ports(ctx context.Context, ref string) ([]api.Port, error) {
	about, err := s.VMs.Get(ref)
	if err != nil {
		return nil, err
	}
	ports, err := s.VMs.Ports(ctx, ref)
	if err != nil {
		return nil, err
	}
	named := s.names.work(ctx)
	for i, port := range ports {
		at, err := netip.ParseAddrPort(port.Host)
		if err != nil { // not served
			continue
		}
		// The name is one address; what has another is found by number.
		ports[i].URL = portURL(port.Port.Port, at, about.Name, named && at.Addr().String() == about.OnHost)
	}
	return ports, nil
}

// portURL is where a browser finds a guest's port, empty for ssh.
func portURL(port int, at netip.AddrPort, name string, named bool) string {
	host := at.Addr().String()
	if named {
		host = name + ".vm"
	}
	scheme := "http"
	switch port {
	case 22:
		return ""
	case 443, 8443:
		scheme = "https"
	}
	return scheme + "://" + host + ":" + strconv.Itoa(int(at.Port()))
}
