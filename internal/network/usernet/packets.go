package usernet

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
)

var broadcastMAC = []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// filter says whether the stack gets a frame of the guest's: ARP, and IPv4
// from the guest's own address to a single other one.
func (n *network) filter(frame []byte) bool {
	eth := header.Ethernet(frame)
	dst := frame[0:6]
	if !bytes.Equal(dst, gatewayMAC) && !bytes.Equal(dst, broadcastMAC) {
		return false
	}
	payload := frame[header.EthernetMinimumSize:]
	switch eth.Type() {
	case header.ARPProtocolNumber:
		packet := header.ARP(payload)
		// The stack would answer for any address. The guest's own it must
		// not have, or the guest finds it taken.
		return packet.IsValid() && !bytes.Equal(packet.ProtocolAddressTarget(), n.cfg.Guest.Addr().AsSlice())
	case header.IPv4ProtocolNumber:
		packet := header.IPv4(payload)
		if !packet.IsValid(len(payload)) {
			return false
		}
		source, _ := netip.AddrFromSlice(packet.SourceAddressSlice())
		target, _ := netip.AddrFromSlice(packet.DestinationAddressSlice())
		if source != n.cfg.Guest.Addr() || target == source || target.IsMulticast() || target == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
			return false
		}
		if packet.Protocol() == uint8(header.ICMPv4ProtocolNumber) && target != n.cfg.Gateway {
			n.answerPing(frame, packet, target)
			return false
		}
		return true
	}
	return false
}

// answerPing tells the guest about an echo request that goes nowhere because
// the policy refuses its target. Others are dropped: without privileges there
// is no way to send them on.
func (n *network) answerPing(frame []byte, packet header.IPv4, target netip.Addr) {
	message := header.ICMPv4(packet.Payload())
	if len(message) < header.ICMPv4MinimumSize || message.Type() != header.ICMPv4Echo || packet.FragmentOffset() != 0 {
		return
	}
	if _, err := n.judge.decide(netip.AddrPortFrom(target, 0)); err == nil {
		return
	}
	n.unreachable(frame[6:12], n.cfg.Gateway, header.ICMPv4AdminProhibited, packet[:min(len(packet), int(packet.HeaderLength())+8)])
}

// portUnreachable tells the guest that nobody listens at the other end of a
// UDP flow.
func (n *network) portUnreachable(id stack.TransportEndpointID) {
	mac, ok := n.guestMAC()
	if !ok {
		return
	}
	original := make([]byte, header.IPv4MinimumSize+header.UDPMinimumSize)
	packet := header.IPv4(original)
	packet.Encode(&header.IPv4Fields{
		TotalLength: uint16(len(original)), TTL: 64, Protocol: uint8(header.UDPProtocolNumber),
		SrcAddr: id.RemoteAddress, DstAddr: id.LocalAddress,
	})
	packet.SetChecksum(^packet.CalculateChecksum())
	header.UDP(packet.Payload()).Encode(&header.UDPFields{SrcPort: id.RemotePort, DstPort: id.LocalPort, Length: header.UDPMinimumSize})
	n.unreachable(mac, hostAddr(id.LocalAddress, 0).Addr(), header.ICMPv4PortUnreachable, original)
}

func (n *network) guestMAC() (net.HardwareAddr, bool) {
	neighbors, err := n.stack.Neighbors(nicID, header.IPv4ProtocolNumber)
	if err != nil {
		return nil, false
	}
	for _, entry := range neighbors {
		if entry.Addr == stackAddr(n.cfg.Guest.Addr()) && len(entry.LinkAddr) == 6 {
			return net.HardwareAddr(entry.LinkAddr), true
		}
	}
	return nil, false
}

// unreachable sends an ICMP message "destination unreachable" about a packet
// that begins with original.
func (n *network) unreachable(mac net.HardwareAddr, from netip.Addr, code header.ICMPv4Code, original []byte) {
	const headers = header.EthernetMinimumSize + header.IPv4MinimumSize + header.ICMPv4MinimumSize
	frame := make([]byte, headers, headers+len(original))
	frame = append(frame, original...)
	header.Ethernet(frame).Encode(&header.EthernetFields{
		SrcAddr: tcpip.LinkAddress(gatewayMAC), DstAddr: tcpip.LinkAddress(mac), Type: header.IPv4ProtocolNumber,
	})
	packet := header.IPv4(frame[header.EthernetMinimumSize:])
	packet.Encode(&header.IPv4Fields{
		TotalLength: uint16(len(packet)), TTL: 64, Protocol: uint8(header.ICMPv4ProtocolNumber),
		SrcAddr: stackAddr(from), DstAddr: stackAddr(n.cfg.Guest.Addr()),
	})
	packet.SetChecksum(^packet.CalculateChecksum())
	message := header.ICMPv4(packet.Payload())
	message.SetType(header.ICMPv4DstUnreachable)
	message.SetCode(code)
	binary.BigEndian.PutUint32(message[4:8], 0)
	message.SetChecksum(0)
	message.SetChecksum(^checksum.Checksum(message, 0))
	n.link.writeFrame(frame)
}

// writeDatagram sends one datagram to the guest, or loses it if the guest does
// not take them fast enough.
func writeDatagram(guest tcpip.Endpoint, data []byte) error {
	_, terr := guest.Write(bytes.NewReader(data), tcpip.WriteOptions{})
	switch terr.(type) {
	case nil, *tcpip.ErrWouldBlock, *tcpip.ErrNoBufferSpace, *tcpip.ErrMessageTooLong:
		return nil
	}
	return fmt.Errorf("cannot send to the guest: %w", errors.New(terr.String()))
}
