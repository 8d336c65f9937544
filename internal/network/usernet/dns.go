package usernet

import (
	"context"
	"fmt"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"

	"banger/internal/network/resolver"
)

const dnsPort = 53

// listenDNS answers DNS questions on the gateway's address. The resolvers that
// are asked are the host's choice, loopback and private ones included: no
// policy applies, since it is this process that asks, and only DNS questions.
//
// A guest can reach itself only, so that its own name is all there is: the
// addresses that the host has for the others are loopback ones, which would
// mean the guest itself here.
func (n *network) listenDNS(ctx context.Context) error {
	address := tcpip.FullAddress{NIC: nicID, Addr: stackAddr(n.cfg.Gateway), Port: dnsPort}
	var queue waiter.Queue
	endpoint, terr := n.stack.NewEndpoint(udp.ProtocolNumber, ipv4.ProtocolNumber, &queue)
	if terr != nil {
		return fmt.Errorf("cannot listen for DNS: %v", terr)
	}
	if terr := endpoint.Bind(address); terr != nil {
		endpoint.Close()
		return fmt.Errorf("cannot listen for DNS: %v", terr)
	}
	listener, err := gonet.ListenTCP(n.stack, address, ipv4.ProtocolNumber)
	if err != nil {
		endpoint.Close()
		return fmt.Errorf("cannot listen for DNS: %w", err)
	}
	packets := gonet.NewUDPConn(&queue, endpoint)
	context.AfterFunc(ctx, func() {
		_ = packets.Close() // no way to fail
		listener.Shutdown()
		_ = listener.Close()
	})
	answers := &resolver.Resolver{
		Names: func(name string) (netip.Addr, bool) {
			return n.cfg.Guest.Addr(), n.cfg.Name != "" && name == n.cfg.Name
		},
		Servers: n.cfg.Resolvers,
		Failed:  n.log.add,
	}
	n.running.Go(func() { answers.ServePackets(ctx, packets) })
	n.running.Go(func() { answers.ServeStreams(ctx, listener) })
	return nil
}
