// Package usernet is the network of one VM, made without privileges: a process
// that ends the guest's TCP and UDP traffic in a TCP/IP stack of its own, and
// carries it on with ordinary sockets of the host, to where a [policy.Policy] allows.
//
// [Start] runs such a process, which is [Main]; [Serve] is what it does.
package usernet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/network/arp"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/icmp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"

	"banger/internal/network/policy"
)

const (
	nicID = 1
	// tcpBuffer bounds what one connection holds in each direction, in bytes.
	tcpBuffer = 512 << 10
	// maxDials bounds connections that are being made; the guest repeats
	// what comes beyond.
	maxDials = 512
	// timeWait is how long an ended connection is remembered. Nothing gets
	// lost or late on a unix socket.
	timeWait = 2 * time.Second
	// copyBuffer is the size of the buffers that data is carried in.
	copyBuffer = 64 << 10
)

// gatewayMAC is the host's end of the link, the same for all VMs: each has a
// link to itself.
var gatewayMAC = net.HardwareAddr{0x02, 0x62, 0x6e, 0x67, 0x72, 0x01}

// Config describes the network of one VM.
type Config struct {
	// Guest is the guest's address with its prefix length, Gateway the
	// host's end and the DNS server. Both are IPv4.
	Guest   netip.Prefix
	Gateway netip.Addr
	Policy  policy.Policy
	// Relays are open whatever the policy says.
	Relays []Relay
	// Name is the VM's: the guest's question about Name.vm is answered with
	// its own address.
	Name string
	// MaxTCP and MaxUDP bound the connections and flows at a time. Zero
	// means 4096 and 1024.
	MaxTCP, MaxUDP int
	// Resolvers returns the DNS servers that the guest's questions go to.
	Resolvers func() []netip.AddrPort
	// Dial connects to an address that the policy allows; network is "tcp"
	// or "udp", for which a *net.TCPConn or a *net.UDPConn is returned. Nil
	// means the host's network.
	Dial func(ctx context.Context, network string, addr netip.AddrPort) (net.Conn, error)
	Log  *slog.Logger
}

// network is one running network.
type network struct {
	cfg   Config
	judge judge
	link  *link
	stack *stack.Stack
	log   *refusals
	// tcp and udp hold a token for each connection and flow.
	tcp, udp chan struct{}
	buffers  sync.Pool
	// running counts the goroutines that carry data, until ended.
	running sync.WaitGroup
	mu      sync.Mutex
	ended   bool
}

// Serve is the network of the guest at the other end of conn. It returns when
// conn ends or ctx is done, with all connections closed, and closes conn.
func Serve(ctx context.Context, conn net.Conn, cfg Config) error {
	defer conn.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	carrier, err := carry(conn)
	if err != nil {
		if ctx.Err() != nil || errors.Is(err, io.EOF) {
			return nil // closed by us, or by a VMM that has come to nothing
		}
		return err
	}
	defer carrier.Close()
	defer context.AfterFunc(ctx, func() { carrier.Close() })()
	n, err := newNetwork(carrier, cfg)
	if err != nil {
		return err
	}
	if err := n.listen(ctx); err != nil {
		cancel()
		n.end()
		return err
	}
	err = n.link.read()
	if ctx.Err() != nil {
		err = nil // closed by us
	}
	cancel()
	// Closed first, or the ends of connections would wait for the guest.
	carrier.Close()
	n.end()
	return err
}

// begin counts something that carries data; it says no once the end has come.
func (n *network) begin() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ended {
		return false
	}
	n.running.Add(1)
	return true
}

// end waits for all that began. The context is done and the link closed.
func (n *network) end() {
	n.mu.Lock()
	n.ended = true
	n.mu.Unlock()
	// Those in the middle of a handshake do not know the context.
	for _, endpoint := range n.stack.RegisteredEndpoints() {
		endpoint.Abort()
	}
	n.running.Wait()
	n.stack.Destroy()
}

func newNetwork(carrier carrier, cfg Config) (*network, error) {
	if !cfg.Guest.IsValid() || !cfg.Guest.Addr().Is4() || !cfg.Gateway.Is4() || !cfg.Guest.Contains(cfg.Gateway) || cfg.Guest.Addr() == cfg.Gateway {
		return nil, fmt.Errorf("cannot make a network of guest %v and gateway %v: two IPv4 addresses of one network are needed", cfg.Guest, cfg.Gateway)
	}
	if cfg.MaxTCP == 0 {
		cfg.MaxTCP = 4096
	}
	if cfg.MaxUDP == 0 {
		cfg.MaxUDP = 1024
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	n := &network{
		cfg: cfg,
		judge: judge{
			policy: cfg.Policy, gateway: cfg.Gateway, guests: cfg.Guest.Masked(),
			hostNetworks: policy.HostNetworks, isLocal: routedToSelf,
		},
		log:     &refusals{log: cfg.Log, seen: map[string]bool{}},
		tcp:     make(chan struct{}, cfg.MaxTCP),
		udp:     make(chan struct{}, cfg.MaxUDP),
		buffers: sync.Pool{New: func() any { return new([copyBuffer]byte) }},
	}
	if cfg.Dial == nil {
		n.cfg.Dial = hostDialer(cfg.Policy.Host, cfg.Relays)
	}
	n.link = newLink(carrier, gatewayMAC, n.filter)
	return n, n.makeStack()
}

func (n *network) makeStack() error {
	s := stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol, arp.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol, udp.NewProtocol, icmp.NewProtocol4},
	})
	n.stack = s
	sack, moderate, wait := tcpip.TCPSACKEnabled(true), tcpip.TCPModerateReceiveBufferOption(false), tcpip.TCPTimeWaitTimeoutOption(timeWait)
	options := []tcpip.SettableTransportProtocolOption{
		&sack, &moderate, &wait,
		&tcpip.TCPReceiveBufferSizeRangeOption{Min: 4096, Default: tcpBuffer, Max: tcpBuffer},
		&tcpip.TCPSendBufferSizeRangeOption{Min: 4096, Default: tcpBuffer, Max: tcpBuffer},
	}
	for _, option := range options {
		if err := s.SetTransportProtocolOption(tcp.ProtocolNumber, option); err != nil {
			return fmt.Errorf("cannot set up TCP: %v", err)
		}
	}
	if err := s.CreateNIC(nicID, n.link); err != nil {
		return fmt.Errorf("cannot set up the link: %v", err)
	}
	address := tcpip.ProtocolAddress{
		Protocol:          ipv4.ProtocolNumber,
		AddressWithPrefix: tcpip.AddressWithPrefix{Address: stackAddr(n.cfg.Gateway), PrefixLen: n.cfg.Guest.Bits()},
	}
	if err := s.AddProtocolAddress(nicID, address, stack.AddressProperties{}); err != nil {
		return fmt.Errorf("cannot set the gateway's address: %v", err)
	}
	// The stack plays every other machine, and talks to the guest alone.
	if err := s.SetPromiscuousMode(nicID, true); err != nil {
		return fmt.Errorf("cannot set up the link: %v", err)
	}
	if err := s.SetSpoofing(nicID, true); err != nil {
		return fmt.Errorf("cannot set up the link: %v", err)
	}
	guest := tcpip.AddressWithPrefix{Address: stackAddr(n.cfg.Guest.Addr()), PrefixLen: 32}
	s.SetRouteTable([]tcpip.Route{{Destination: guest.Subnet(), NIC: nicID}})
	return nil
}

// listen begins to answer the guest.
func (n *network) listen(ctx context.Context) error {
	if err := n.listenDNS(ctx); err != nil {
		return err
	}
	forwarder := tcp.NewForwarder(n.stack, tcpBuffer, maxDials, func(r *tcp.ForwarderRequest) { n.acceptTCP(ctx, r) })
	n.stack.SetTransportProtocolHandler(tcp.ProtocolNumber, forwarder.HandlePacket)
	flows := udp.NewForwarder(n.stack, func(r *udp.ForwarderRequest) bool { return n.acceptUDP(ctx, r) })
	n.stack.SetTransportProtocolHandler(udp.ProtocolNumber, flows.HandlePacket)
	return nil
}

func stackAddr(addr netip.Addr) tcpip.Address { return tcpip.AddrFrom4(addr.As4()) }

func hostAddr(addr tcpip.Address, port uint16) netip.AddrPort {
	ip, _ := netip.AddrFromSlice(addr.AsSlice())
	return netip.AddrPortFrom(ip, port)
}

// refusals logs what the policy refuses: each address once, and not without
// bound, since the guest chooses how often.
type refusals struct {
	log  *slog.Logger
	mu   sync.Mutex
	seen map[string]bool
}

const maxRefusals = 256

func (r *refusals) add(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if text := err.Error(); len(r.seen) < maxRefusals && !r.seen[text] {
		r.seen[text] = true
		r.log.Info("connection refused", "error", err)
	}
}
