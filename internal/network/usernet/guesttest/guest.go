// Package guesttest is a guest for tests of networks: a TCP/IP stack at the
// VMM's end of a stream of Ethernet frames.
package guesttest

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/channel"
	"gvisor.dev/gvisor/pkg/tcpip/link/ethernet"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"
)

const (
	nicID = 1
	queue = 4096
)

// MAC is the guest's address on the link.
var MAC = net.HardwareAddr{0x02, 0, 0, 0, 0, 0x05}

// Guest is a guest's network stack.
type Guest struct {
	Stack *stack.Stack
	link  *channel.Endpoint
	conn  net.Conn
	wait  sync.WaitGroup
}

// New starts a guest at one end of a stream. The test's end closes both.
func New(tb testing.TB, conn net.Conn, address netip.Prefix, gateway netip.Addr, mtu uint32) *Guest {
	tb.Helper()
	return NewWithMAC(tb, conn, MAC, address, gateway, mtu)
}

// NewWithMAC is [New] with another address on the link.
func NewWithMAC(tb testing.TB, conn net.Conn, mac net.HardwareAddr, address netip.Prefix, gateway netip.Addr, mtu uint32) *Guest {
	tb.Helper()
	link := channel.New(queue, mtu+header.EthernetMinimumSize, tcpip.LinkAddress(mac))
	link.LinkEPCapabilities = stack.CapabilityRXChecksumOffload
	g := &Guest{
		Stack: stack.New(stack.Options{
			NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, arp.NewProtocol},
			TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4},
		}),
		link: link, conn: conn,
	}
	must := func(err tcpip.Error) {
		if err != nil {
			tb.Fatalf("cannot set up the guest's stack: %v", err)
		}
	}
	must(g.Stack.CreateNIC(nicID, ethernet.New(link)))
	must(g.Stack.AddProtocolAddress(nicID, tcpip.ProtocolAddress{
		Protocol:          ipv4.ProtocolNumber,
		AddressWithPrefix: tcpip.AddressWithPrefix{Address: tcpip.AddrFrom4(address.Addr().As4()), PrefixLen: address.Bits()},
	}, stack.AddressProperties{}))
	g.Stack.SetRouteTable([]tcpip.Route{
		{Destination: tcpip.AddressWithPrefix{Address: tcpip.AddrFrom4(address.Masked().Addr().As4()), PrefixLen: address.Bits()}.Subnet(), NIC: nicID},
		{Destination: header.IPv4EmptySubnet, Gateway: tcpip.AddrFrom4(gateway.As4()), NIC: nicID},
	})
	ctx, cancel := context.WithCancel(context.Background()) //nolint:usetesting // ends in the clean-up, after the test's own
	g.wait.Go(func() { g.send(ctx) })
	g.wait.Go(g.receive)
	tb.Cleanup(func() {
		cancel()
		conn.Close()
		g.wait.Wait()
		g.Stack.Destroy()
	})
	return g
}

func (g *Guest) send(ctx context.Context) {
	var out []byte
	for {
		pkt := g.link.ReadContext(ctx)
		if pkt == nil {
			return
		}
		out = out[:0]
		for ; pkt != nil; pkt = g.link.Read() {
			out = binary.BigEndian.AppendUint32(out, uint32(pkt.Size()))
			for _, part := range pkt.AsSlices() {
				out = append(out, part...)
			}
			pkt.DecRef()
			if len(out) > 128<<10 {
				break
			}
		}
		if _, err := g.conn.Write(out); err != nil {
			return
		}
	}
}

func (g *Guest) receive() {
	reader := bufio.NewReaderSize(g.conn, 256<<10)
	var size [4]byte
	for {
		if _, err := io.ReadFull(reader, size[:]); err != nil {
			return
		}
		view := buffer.NewViewSize(int(binary.BigEndian.Uint32(size[:])))
		if _, err := io.ReadFull(reader, view.AsSlice()); err != nil {
			view.Release()
			return
		}
		pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithView(view)})
		g.link.InjectInbound(0, pkt)
		pkt.DecRef()
	}
}

func full(addr netip.AddrPort) tcpip.FullAddress {
	return tcpip.FullAddress{NIC: nicID, Addr: tcpip.AddrFrom4(addr.Addr().As4()), Port: addr.Port()}
}

// DialTCP connects from the guest.
func (g *Guest) DialTCP(ctx context.Context, addr netip.AddrPort) (*gonet.TCPConn, error) {
	return gonet.DialContextTCP(ctx, g.Stack, full(addr), ipv4.ProtocolNumber)
}

// DialUDP makes a connected UDP socket in the guest.
func (g *Guest) DialUDP(addr netip.AddrPort) (*gonet.UDPConn, error) {
	remote := full(addr)
	return gonet.DialUDP(g.Stack, nil, &remote, ipv4.ProtocolNumber)
}

// probeInterval is how long a probe waits for an answer before it asks again:
// networks may lose datagrams, and hosts say "unreachable" only so often.
const probeInterval = 250 * time.Millisecond

// ProbeUDP sends datagrams until one comes back, or an error for one, which it
// returns.
func (g *Guest) ProbeUDP(ctx context.Context, addr netip.AddrPort) error {
	var wq waiter.Queue
	endpoint, terr := g.Stack.NewEndpoint(udp.ProtocolNumber, ipv4.ProtocolNumber, &wq)
	if terr != nil {
		return errors.New(terr.String())
	}
	defer endpoint.Close()
	entry, ready := waiter.NewChannelEntry(waiter.ReadableEvents | waiter.EventErr)
	wq.EventRegister(&entry)
	defer wq.EventUnregister(&entry)
	if terr := endpoint.Connect(full(addr)); terr != nil {
		return errors.New(terr.String())
	}
	for {
		if _, terr := endpoint.Write(strings.NewReader("probe"), tcpip.WriteOptions{}); terr != nil {
			return errors.New(terr.String())
		}
		select {
		case <-ready:
			if terr := endpoint.LastError(); terr != nil {
				return errors.New(terr.String())
			}
			return nil
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(probeInterval):
		}
	}
}

// ListenTCP listens in the guest.
func (g *Guest) ListenTCP(addr netip.AddrPort) (*gonet.TCPListener, error) {
	return gonet.ListenTCP(g.Stack, full(addr), ipv4.ProtocolNumber)
}

// Neighbour tells the guest who has an address on its link.
func (g *Guest) Neighbour(tb testing.TB, addr netip.Addr, mac net.HardwareAddr) {
	tb.Helper()
	if err := g.Stack.AddStaticNeighbor(nicID, ipv4.ProtocolNumber, tcpip.AddrFrom4(addr.As4()), tcpip.LinkAddress(mac)); err != nil {
		tb.Fatalf("cannot tell the guest its neighbour: %v", err)
	}
}
