package usernet

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"

	"banger/internal/vmm/netns"
	"banger/internal/vmm/process"
)

// guestInNamespace makes this test binary a guest on a TAP: the kernel's own
// stack, in a namespace.
const guestInNamespace = "guest-in-namespace"

const tapBulk = 64 << 20

// tapGuest sends much to an echo server behind the network and takes it back.
// Then it waits for its end.
func tapGuest([]string) error {
	if err := netns.Connect(3); err != nil {
		return err
	}
	link, err := netlink.LinkByName("br0")
	if err != nil {
		return err
	}
	if err := netlink.AddrAdd(link, &netlink.Addr{IPNet: &net.IPNet{IP: guestPrefix.Addr().AsSlice(), Mask: net.CIDRMask(guestPrefix.Bits(), 32)}}); err != nil {
		return fmt.Errorf("address: %w", err)
	}
	if err := netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Gw: gateway.AsSlice()}); err != nil {
		return fmt.Errorf("route: %w", err)
	}
	for _, mtu := range []int{MTU, 1500} { // large packets, and large segments
		if err := netlink.LinkSetMTU(link, mtu); err != nil {
			return err
		}
		began := time.Now()
		if err := tapEcho(); err != nil {
			return fmt.Errorf("with an MTU of %d: %w", mtu, err)
		}
		fmt.Fprintf(os.Stdout, "MTU %d: %.0f MB/s each way\n", mtu, tapBulk/time.Since(began).Seconds()/1e6)
	}
	fmt.Fprintln(os.Stdout, "done")
	select {}
}

func tapEcho() error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "tcp", netip.AddrPortFrom(internet, 80).String())
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	sent, received := sha256.New(), sha256.New()
	failed := make(chan error, 1)
	go func() {
		source := io.LimitReader(rand.NewChaCha8([32]byte{2}), tapBulk)
		_, err := io.Copy(onlyWriter{conn}, io.TeeReader(source, sent))
		failed <- err
		conn.(*net.TCPConn).CloseWrite()
	}()
	if _, err := io.Copy(received, conn); err != nil {
		return err
	}
	if err := <-failed; err != nil {
		return err
	}
	if !bytes.Equal(sent.Sum(nil), received.Sum(nil)) {
		return errors.New("what came back is not what was sent")
	}
	return nil
}

// TestTAP runs a network whose VMM is in a namespace of its own, and has a TAP.
func TestTAP(t *testing.T) {
	t.Parallel()
	vm, ours := socketPair(t)
	theirs, err := vm.(*net.UnixConn).File()
	if err != nil {
		t.Fatal(err)
	}
	vm.Close()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	out, log, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	child, err := process.Start(process.Command{
		Path: self, Args: []string{guestInNamespace}, Dir: "/", Files: []*os.File{theirs}, Log: log, OwnNetwork: true,
	})
	theirs.Close()
	log.Close()
	if err != nil {
		ours.Close()
		t.Skipf("NOT TESTED: needs user namespaces: %v", err)
	}
	defer child.Close()
	echo := serveTCP(t, echo)
	done := make(chan error, 1)
	go func() {
		done <- Serve(context.WithoutCancel(t.Context()), ours, Config{
			Guest: guestPrefix, Gateway: gateway,
			Dial: func(ctx context.Context, network string, _ netip.AddrPort) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, network, echo)
			},
		})
	}()
	var said bytes.Buffer
	for !strings.HasSuffix(said.String(), "done\n") {
		if _, err := io.CopyN(&said, out, 1); err != nil {
			break
		}
	}
	// Nothing but its end tells the network's process about a VMM that was killed.
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := child.Kill(ctx); err != nil {
		t.Error(err)
	}
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-ctx.Done():
		t.Error("the network does not end after its VM")
	}
	if said := said.String(); strings.Contains(said, netns.Device) || strings.Contains(said, "a TAP device: operation not permitted") {
		t.Skipf("NOT TESTED: %s", said)
	} else if !strings.Contains(said, "done\n") {
		t.Errorf("the guest says: %s", said)
	} else {
		t.Log(said)
	}
}
