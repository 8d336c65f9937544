package usernet

import (
	"encoding/binary"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/checksum"
	"gvisor.dev/gvisor/pkg/tcpip/header"

	"banger/internal/network/usernet/guesttest"
)

// raw runs a network at whose other end the test itself writes frames.
func raw(tb testing.TB) (net.Conn, <-chan error) {
	tb.Helper()
	vm, ours := net.Pipe()
	done := make(chan error, 1)
	go func() {
		done <- Serve(tb.Context(), ours, Config{
			Guest: guestPrefix, Gateway: gateway, Log: slog.New(slog.DiscardHandler),
			Resolvers: func() []netip.AddrPort { return nil },
			Dial:      refuseAll,
		})
	}()
	tb.Cleanup(func() { vm.Close() })
	deadline(tb, vm)
	return vm, done
}

func framed(frame []byte) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(frame))), frame...)
}

// ethernet puts a payload into a frame from the guest to the gateway.
func ethernet(kind tcpip.NetworkProtocolNumber, payload []byte) []byte {
	frame := make([]byte, header.EthernetMinimumSize, header.EthernetMinimumSize+len(payload))
	header.Ethernet(frame).Encode(&header.EthernetFields{
		SrcAddr: tcpip.LinkAddress(guesttest.MAC), DstAddr: tcpip.LinkAddress(gatewayMAC), Type: kind,
	})
	return append(frame, payload...)
}

func ping(source, target netip.Addr) []byte {
	packet := make([]byte, header.IPv4MinimumSize+header.ICMPv4MinimumSize)
	ip := header.IPv4(packet)
	ip.Encode(&header.IPv4Fields{
		TotalLength: uint16(len(packet)), TTL: 64, Protocol: uint8(header.ICMPv4ProtocolNumber),
		SrcAddr: stackAddr(source), DstAddr: stackAddr(target),
	})
	ip.SetChecksum(^ip.CalculateChecksum())
	message := header.ICMPv4(ip.Payload())
	message.SetType(header.ICMPv4Echo)
	message.SetChecksum(^checksum.Checksum(message, 0))
	return ethernet(header.IPv4ProtocolNumber, packet)
}

func arpRequest(target netip.Addr) []byte {
	packet := make(header.ARP, header.ARPSize)
	packet.SetIPv4OverEthernet()
	packet.SetOp(header.ARPRequest)
	copy(packet.HardwareAddressSender(), guesttest.MAC)
	copy(packet.ProtocolAddressSender(), guestPrefix.Addr().AsSlice())
	copy(packet.ProtocolAddressTarget(), target.AsSlice())
	frame := ethernet(header.ARPProtocolNumber, packet)
	copy(frame, broadcastMAC)
	return frame
}

func readFrame(tb testing.TB, conn net.Conn) []byte {
	tb.Helper()
	var size [4]byte
	if _, err := io.ReadFull(conn, size[:]); err != nil {
		tb.Fatal(err)
	}
	frame := make([]byte, binary.BigEndian.Uint32(size[:]))
	if _, err := io.ReadFull(conn, frame); err != nil {
		tb.Fatal(err)
	}
	return frame
}

func TestARPAndPing(t *testing.T) {
	t.Parallel()
	vm, _ := raw(t)
	send := func(frames ...[]byte) {
		for _, frame := range frames {
			if _, err := vm.Write(framed(frame)); err != nil {
				t.Error(err)
			}
		}
	}
	// The guest's own address is not taken: the first answer is about .1.
	go send(arpRequest(guestPrefix.Addr()), arpRequest(gateway))
	answer := header.ARP(readFrame(t, vm)[header.EthernetMinimumSize:])
	if got := net.IP(answer.ProtocolAddressSender()).String(); got != gateway.String() || answer.Op() != header.ARPReply {
		t.Errorf("an ARP answer (%d) about %s", answer.Op(), got)
	}
	// A spoofed source is ignored, an allowed address is not answered for, and
	// a refused one is said to be.
	go send(ping(netip.MustParseAddr("172.16.0.77"), gateway), ping(guestPrefix.Addr(), internet), ping(guestPrefix.Addr(), netip.MustParseAddr("10.0.0.1")))
	packet := header.IPv4(readFrame(t, vm)[header.EthernetMinimumSize:])
	if message := header.ICMPv4(packet.Payload()); message.Type() != header.ICMPv4DstUnreachable || message.Code() != header.ICMPv4AdminProhibited {
		t.Errorf("ICMP type %d code %d in place of unreachable, prohibited", message.Type(), message.Code())
	}
	if !packet.IsChecksumValid() || checksum.Checksum(packet.Payload(), 0) != 0xffff {
		t.Error("a checksum is wrong")
	}
	go send(ping(guestPrefix.Addr(), gateway))
	packet = header.IPv4(readFrame(t, vm)[header.EthernetMinimumSize:])
	if message := header.ICMPv4(packet.Payload()); message.Type() != header.ICMPv4EchoReply || packet.SourceAddress() != stackAddr(gateway) {
		t.Errorf("ICMP type %d in place of an answer", message.Type())
	}
}

func TestFramesEnd(t *testing.T) {
	t.Parallel()
	tests := []struct {
		name  string
		bytes []byte
		want  string // in the error; empty for a clean end
	}{
		{"nothing", nil, ""},
		{"empty frames", make([]byte, 40), ""},
		{"a large frame", framed(make([]byte, maxFrame)), ""},
		{"an oversize frame", framed(make([]byte, maxFrame+1))[:4], "at most"},
		{"an absurd length", []byte{0xff, 0xff, 0xff, 0xff}, "at most"},
		{"half a length", []byte{0, 0}, "length"},
		{"half a frame", framed(ping(guestPrefix.Addr(), gateway))[:20], "frame"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			vm, done := raw(t)
			if _, err := vm.Write(test.bytes); err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(test.want, "at most") {
				vm.Close()
			}
			select {
			case err := <-done:
				if (err == nil) != (test.want == "") || err != nil && !strings.Contains(err.Error(), test.want) {
					t.Errorf("got %v", err)
				}
			case <-time.After(patience):
				t.Fatal("Serve does not return")
			}
		})
	}
}

// FuzzFrames sends hostile bytes; what they must not do is bring the network
// down or keep it from ending.
func FuzzFrames(f *testing.F) {
	f.Add(framed(arpRequest(gateway)))
	f.Add(append(framed(ping(guestPrefix.Addr(), gateway)), framed(ping(guestPrefix.Addr(), internet))...))
	f.Add(framed(ethernet(header.IPv4ProtocolNumber, []byte{0x45})))
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 1})
	for _, protocol := range []tcpip.TransportProtocolNumber{header.TCPProtocolNumber, header.UDPProtocolNumber, header.ICMPv4ProtocolNumber, 2, 132} {
		packet := make([]byte, 60)
		ip := header.IPv4(packet)
		ip.Encode(&header.IPv4Fields{
			TotalLength: uint16(len(packet)), TTL: 64, Protocol: uint8(protocol), SrcAddr: stackAddr(guestPrefix.Addr()), DstAddr: stackAddr(internet),
		})
		ip.SetChecksum(^ip.CalculateChecksum())
		if protocol == header.TCPProtocolNumber {
			header.TCP(ip.Payload()).Encode(&header.TCPFields{SrcPort: 1, DstPort: 2, DataOffset: 40, Flags: header.TCPFlagSyn})
		}
		f.Add(framed(ethernet(header.IPv4ProtocolNumber, packet)))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		vm, done := raw(t)
		go io.Copy(io.Discard, vm)
		// Fails when the network has ended at a frame that is too large.
		vm.Write(data)
		vm.Close()
		<-done
	})
}
