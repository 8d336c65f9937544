package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"

	"banger/internal/api"
	"banger/internal/config"
	"banger/internal/network/bridge"
	"banger/internal/network/dns/zone"
	"banger/internal/network/plan"
	"banger/internal/network/resolver"
	"banger/internal/vm"
	"banger/internal/vmm"
)

// bridgeNetwork connects guests to the bridge that root has set up, by the TAP
// device that goes with the VM's address.
func bridgeNetwork(load func() (config.Config, error), names *guestNames) vm.Network {
	return vm.Network{
		Mode: vmm.NetworkTAP, DNS: plan.Gateway.String(),
		Ready: func(addr netip.Addr) error {
			settings, err := load()
			if err != nil {
				return err
			}
			if err := bridge.Ready(bridge.ThisHost(), os.Getuid(), settings.Network, addr); err != nil {
				return err
			}
			return names.listen()
		},
		Connect: func(_ context.Context, link vm.Link) (vmm.NIC, func() error, error) {
			guest, err := netip.ParsePrefix(link.Address)
			if err != nil {
				return vmm.NIC{}, nil, err
			}
			return vmm.NIC{Mode: vmm.NetworkTAP, MAC: link.MAC, TAP: bridge.TAP(guest.Addr())}, func() error { return nil }, nil
		},
	}
}

// guestNames answers the DNS questions of guests on the bridge, from when it is
// first asked to.
type guestNames struct {
	lookup zone.Lookup
	log    *slog.Logger

	mu    sync.Mutex
	close func() error
}

// listen begins to answer at the gateway's address, if it has not yet.
func (g *guestNames) listen() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.close != nil {
		return nil
	}
	ctx, cancel := context.WithCancel(context.Background())
	address := fmt.Sprint(plan.Gateway, ":", bridge.NamesPort)
	var config net.ListenConfig
	packets, err := config.ListenPacket(ctx, "udp4", address)
	if err == nil {
		var listener net.Listener
		if listener, err = config.Listen(ctx, "tcp4", address); err == nil {
			g.serve(ctx, cancel, packets, listener)
			return nil
		}
		err = errors.Join(err, packets.Close())
	}
	cancel()
	return &api.Error{
		Kind:    api.KindState,
		Message: fmt.Sprintf("cannot use the bridge %s: the DNS questions of guests cannot be answered: %v", bridge.Name, err),
		Hint:    "end what has the port: another bangerd of yours?",
	}
}

func (g *guestNames) serve(ctx context.Context, cancel context.CancelFunc, packets net.PacketConn, listener net.Listener) {
	answers := &resolver.Resolver{
		Names:   g.lookup,
		Servers: resolver.NewServers(resolver.ResolvConf, g.log).Get,
		Failed:  func(err error) { g.log.DebugContext(ctx, "a guest's DNS question has no answer", "error", err) },
	}
	var running sync.WaitGroup
	running.Go(func() { answers.ServePackets(ctx, packets) })
	running.Go(func() { answers.ServeStreams(ctx, listener) })
	g.close = func() error {
		cancel()
		err := errors.Join(packets.Close(), listener.Close())
		running.Wait()
		return err
	}
}

// stop ends it.
func (g *guestNames) stop() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.close == nil {
		return
	}
	if err := g.close(); err != nil {
		g.log.Warn("cannot end the DNS server for guests", "error", err)
	}
	g.close = nil
}
