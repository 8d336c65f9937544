package bridge

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"banger/internal/network/netnstest"
	"banger/internal/network/plan"
	"banger/internal/network/usernet/guesttest"
)

// testHost is this namespace, with files in a directory of the test.
func testHost(t *testing.T) Host {
	t.Helper()
	file, err := os.OpenFile("/dev/net/tun", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("SKIPPED: TAP devices cannot be made here: %v", err)
	}
	file.Close()
	dir := t.TempDir()
	return Host{State: filepath.Join(dir, "state"), Units: dir, Program: filepath.Join(dir, "program"), Systemd: filepath.Join(dir, "no"), Resolved: filepath.Join(dir, "no")}
}

func command(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// snapshot is all that a setup could change.
func snapshot(t *testing.T, h Host) string {
	t.Helper()
	var text strings.Builder
	for _, args := range [][]string{
		{"ip", "-details", "link"},
		{"ip", "addr"},
		{"ip", "route", "show", "table", "all"},
		{"ip", "rule"},
		{"ip", "neigh"},
		{"nft", "list", "ruleset"},
		{"cat", forwardingPath},
		{"find", h.Units, "-printf", "%y %m %P\\n"},
	} {
		fmt.Fprintf(&text, "# %s\n%s", strings.Join(args, " "), steady(command(t, args[0], args[1:]...)))
	}
	return text.String()
}

// steady drops what changes by itself: timers of bridges, times of directories.
func steady(text string) string {
	var kept []string
	for line := range strings.SplitSeq(text, "\n") {
		var words []string
		fields := strings.Fields(line)
		for i, word := range fields {
			if i > 0 && strings.HasSuffix(fields[i-1], "_timer") {
				continue
			}
			words = append(words, word)
		}
		kept = append(kept, strings.Join(words, " "))
	}
	return strings.Join(kept, "\n")
}

// The addresses of the test's world: the host is attached to uplink.
var (
	uplink   = netip.MustParsePrefix("198.51.100.2/24")
	router   = netip.MustParseAddr("198.51.100.1")
	internet = netip.MustParseAddr("203.0.113.7")
	// off is what is around the host and must not be reached.
	off = []string{"10.1.2.3", "100.64.0.9", "169.254.169.254", "172.20.0.2", "192.0.0.8", "192.168.5.5", "198.18.0.1", "198.51.100.1"}
)

const port = 8080

// makeWorld connects this host to a world in which a server answers at all
// addresses with the address that it sees.
func makeWorld(t *testing.T) *netnstest.World {
	t.Helper()
	w := netnstest.NewWorld(t)
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "up0"
	check := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	check(netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "world0"}))
	peer, err := netlink.LinkByName("world0")
	check(err)
	w.Move(t, peer)
	up, err := netlink.LinkByName("up0")
	check(err)
	addTo := func(h *netlink.Handle, link netlink.Link, prefix string) {
		addr, err := netlink.ParseAddr(prefix)
		check(err)
		check(h.AddrAdd(link, addr))
	}
	here, err := netlink.NewHandle()
	check(err)
	addTo(here, up, uplink.String())
	check(netlink.LinkSetUp(up))
	lo, err := w.Net.LinkByName("lo")
	check(err)
	there, err := w.Net.LinkByName("world0")
	check(err)
	addTo(w.Net, there, router.String()+"/24")
	check(w.Net.LinkSetUp(there))
	check(w.Net.LinkSetUp(lo))
	addTo(w.Net, lo, internet.String()+"/32")
	for _, addr := range off {
		if addr != router.String() {
			addTo(w.Net, lo, addr+"/32")
		}
	}
	check(netlink.RouteAdd(&netlink.Route{Gw: router.AsSlice()}))
	// Somebody in the world who knows where the guests are.
	network := &net.IPNet{IP: plan.Network.Addr().AsSlice(), Mask: net.CIDRMask(plan.Network.Bits(), 32)}
	check(w.Net.RouteAdd(&netlink.Route{Dst: network, Gw: uplink.Addr().AsSlice()}))
	w.Do(t, func() {
		for _, addr := range append(off, internet.String()) {
			serve(t, fmt.Sprint(addr, ":", port))
		}
	})
	return w
}

// serve answers with what it sees, on TCP and UDP.
func serve(t *testing.T, address string) {
	t.Helper()
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp4", address)
	if err != nil {
		t.Error(err)
		return
	}
	packets, err := new(net.ListenConfig).ListenPacket(t.Context(), "udp4", address)
	if err != nil {
		t.Error(err)
		return
	}
	t.Cleanup(func() { listener.Close(); packets.Close() })
	go serveTCP(listener)
	go func() {
		buf := make([]byte, 2048)
		for {
			_, from, err := packets.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = packets.WriteTo([]byte(from.String()), from)
		}
	}()
}

func serveTCP(listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		fmt.Fprint(conn, conn.RemoteAddr())
		conn.Close()
	}
}

// tap is a guest's end of a TAP device, as the stream of frames that guesttest
// wants.
type tap struct {
	file *os.File
	rest []byte
}

func openTAP(t *testing.T, name string) *tap {
	t.Helper()
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	request, err := unix.NewIfreq(name)
	if err != nil {
		t.Fatal(err)
	}
	request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
		t.Fatalf("cannot open %s: %v", name, err)
	}
	return &tap{file: os.NewFile(uintptr(fd), name)}
}

func (p *tap) Read(buf []byte) (int, error) {
	if len(p.rest) == 0 {
		frame := make([]byte, 4+65536)
		n, err := p.file.Read(frame[4:])
		if err != nil {
			return 0, err
		}
		binary.BigEndian.PutUint32(frame, uint32(n))
		p.rest = frame[:4+n]
	}
	n := copy(buf, p.rest)
	p.rest = p.rest[n:]
	return n, nil
}

func (p *tap) Write(stream []byte) (int, error) {
	for rest := stream; len(rest) > 0; {
		size := 4 + int(binary.BigEndian.Uint32(rest))
		if _, err := p.file.Write(rest[4:size]); err != nil {
			return 0, err
		}
		rest = rest[size:]
	}
	return len(stream), nil
}

func (p *tap) Close() error                     { return p.file.Close() }
func (p *tap) LocalAddr() net.Addr              { return nil }
func (p *tap) RemoteAddr() net.Addr             { return nil }
func (p *tap) SetDeadline(time.Time) error      { return errors.ErrUnsupported }
func (p *tap) SetReadDeadline(time.Time) error  { return errors.ErrUnsupported }
func (p *tap) SetWriteDeadline(time.Time) error { return errors.ErrUnsupported }

// guest is a VM on the bridge.
type guest struct {
	*guesttest.Guest
	tap *tap
	mac net.HardwareAddr
}

// newGuest has the TAP device of an address, and uses the addresses that it is
// told to.
func newGuest(t *testing.T, device netip.Addr, mac string, addr netip.Addr) *guest {
	t.Helper()
	hardware, err := net.ParseMAC(mac)
	if err != nil {
		t.Fatal(err)
	}
	p := openTAP(t, TAP(device))
	return &guest{Guest: guesttest.NewWithMAC(t, p, hardware, plan.WithLength(addr), plan.Gateway, 1500), tap: p, mac: hardware}
}
