package usernet

import (
	"errors"
	"io"
	"net"
	"sync"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

const (
	// MTU is what the guest's interface is to be set to. Its traffic ends in
	// this process, so that no real network bounds it; large packets cost an
	// emulated guest far less for each byte.
	MTU = 65520
	// outBuffer bounds what is gathered for one write to the VMM.
	outBuffer = 256 << 10
)

// link is the stack's end of what carries Ethernet frames. Writing to a stream
// blocks while the VMM does not read: back-pressure reaches the senders, and
// nothing is queued here.
type link struct {
	carrier carrier
	address tcpip.LinkAddress
	// filter sees each frame first, and says whether the stack gets it. It
	// must not keep the slice.
	filter func(frame []byte) bool

	mu         sync.RWMutex
	dispatcher stack.NetworkDispatcher

	writeMu sync.Mutex
	out     []byte
}

var _ stack.LinkEndpoint = (*link)(nil)

func newLink(carrier carrier, address net.HardwareAddr, filter func([]byte) bool) *link {
	return &link{carrier: carrier, address: tcpip.LinkAddress(address), filter: filter, out: make([]byte, 0, outBuffer)}
}

// read delivers frames to the stack until there are no more, which is nil, or
// what comes makes no sense.
func (l *link) read() error {
	for {
		view, err := l.carrier.next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if size := view.Size(); size < header.EthernetMinimumSize || size > MTU+header.EthernetMinimumSize {
			view.Release()
			continue
		}
		l.deliver(view)
	}
}

func (l *link) deliver(view *buffer.View) {
	l.mu.RLock()
	dispatcher := l.dispatcher
	l.mu.RUnlock()
	if dispatcher == nil || !l.filter(view.AsSlice()) {
		view.Release()
		return
	}
	pkt := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithView(view)})
	defer pkt.DecRef()
	if !l.ParseHeader(pkt) {
		return
	}
	eth := header.Ethernet(pkt.LinkHeader().Slice())
	pkt.PktType = tcpip.PacketHost
	if eth.DestinationAddress() == header.EthernetBroadcastAddress {
		pkt.PktType = tcpip.PacketBroadcast
	}
	dispatcher.DeliverNetworkPacket(eth.Type(), pkt)
}

// WritePackets implements [stack.LinkWriter].
func (l *link) WritePackets(packets stack.PacketBufferList) (int, tcpip.Error) {
	l.writeMu.Lock()
	defer l.writeMu.Unlock()
	l.out = l.out[:0]
	for _, pkt := range packets.AsSlice() {
		size := pkt.Size()
		if len(l.out) > 0 && len(l.out)+maxPrefix+size > l.carrier.gather {
			if err := l.flush(); err != nil {
				return 0, err
			}
		}
		l.out = l.carrier.prefix(l.out, size)
		for _, part := range pkt.AsSlices() {
			l.out = append(l.out, part...)
		}
	}
	if err := l.flush(); err != nil {
		return 0, err
	}
	return packets.Len(), nil
}

// writeFrame sends one frame made by hand.
func (l *link) writeFrame(frame []byte) {
	l.writeMu.Lock()
	defer l.writeMu.Unlock()
	l.out = l.carrier.prefix(l.out[:0], len(frame))
	l.out = append(l.out, frame...)
	// A broken connection is seen by read, which ends everything.
	_ = l.flush()
}

func (l *link) flush() tcpip.Error {
	_, err := l.carrier.Write(l.out)
	l.out = l.out[:0]
	if err != nil {
		return &tcpip.ErrClosedForSend{}
	}
	return nil
}

// MTU implements [stack.NetworkLinkEndpoint].
func (*link) MTU() uint32 { return MTU }

// SetMTU implements [stack.NetworkLinkEndpoint]; the MTU is fixed.
func (*link) SetMTU(uint32) {}

// MaxHeaderLength implements [stack.NetworkLinkEndpoint].
func (*link) MaxHeaderLength() uint16 { return header.EthernetMinimumSize }

// LinkAddress implements [stack.NetworkLinkEndpoint].
func (l *link) LinkAddress() tcpip.LinkAddress { return l.address }

// SetLinkAddress implements [stack.NetworkLinkEndpoint]; the address is fixed.
func (*link) SetLinkAddress(tcpip.LinkAddress) {}

// Capabilities implements [stack.NetworkLinkEndpoint]. What comes through a
// unix socket needs no check against damage on the way.
func (*link) Capabilities() stack.LinkEndpointCapabilities {
	return stack.CapabilityResolutionRequired | stack.CapabilityRXChecksumOffload
}

// Attach implements [stack.NetworkLinkEndpoint].
func (l *link) Attach(dispatcher stack.NetworkDispatcher) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dispatcher = dispatcher
}

// IsAttached implements [stack.NetworkLinkEndpoint].
func (l *link) IsAttached() bool {
	l.mu.RLock()
	defer l.mu.RUnlock()
	return l.dispatcher != nil
}

// Wait implements [stack.NetworkLinkEndpoint].
func (*link) Wait() {}

// ARPHardwareType implements [stack.NetworkLinkEndpoint].
func (*link) ARPHardwareType() header.ARPHardwareType { return header.ARPHardwareEther }

// AddHeader implements [stack.NetworkLinkEndpoint].
func (*link) AddHeader(pkt *stack.PacketBuffer) {
	eth := header.Ethernet(pkt.LinkHeader().Push(header.EthernetMinimumSize))
	eth.Encode(&header.EthernetFields{
		SrcAddr: pkt.EgressRoute.LocalLinkAddress,
		DstAddr: pkt.EgressRoute.RemoteLinkAddress,
		Type:    pkt.NetworkProtocolNumber,
	})
}

// ParseHeader implements [stack.NetworkLinkEndpoint].
func (*link) ParseHeader(pkt *stack.PacketBuffer) bool {
	_, ok := pkt.LinkHeader().Consume(header.EthernetMinimumSize)
	return ok
}

// Close implements [stack.NetworkLinkEndpoint].
func (*link) Close() {}

// SetOnCloseAction implements [stack.NetworkLinkEndpoint].
func (*link) SetOnCloseAction(func()) {}
