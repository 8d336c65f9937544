package usernet

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
	"gvisor.dev/gvisor/pkg/waiter"
)

const (
	dialTimeout   = 60 * time.Second
	keepaliveIdle = 60 * time.Second
)

// hostDialer connects through the host's network. A connection whose both ends
// have the same address was led back to the host, whatever the routes said
// before.
func hostDialer(allowHost bool, open relays) func(context.Context, string, netip.AddrPort) (net.Conn, error) {
	dialer := net.Dialer{Timeout: dialTimeout}
	return func(ctx context.Context, network string, addr netip.AddrPort) (net.Conn, error) {
		conn, err := dialer.DialContext(ctx, network, addr.String())
		if err != nil {
			return nil, err
		}
		if !allowHost && (network != "tcp" || !open.leadTo(addr)) && ipOf(conn.LocalAddr()) == ipOf(conn.RemoteAddr()) {
			conn.Close()
			return nil, fmt.Errorf("%w: %v leads to the host", errRefused, addr.Addr())
		}
		return conn, nil
	}
}

func ipOf(addr net.Addr) netip.Addr {
	parsed, err := netip.ParseAddrPort(addr.String())
	if err != nil {
		return netip.Addr{}
	}
	return parsed.Addr().Unmap()
}

// acceptTCP answers one SYN of the guest. The guest's connection is made only
// once the real one is, so that it sees the same success or refusal.
func (n *network) acceptTCP(ctx context.Context, request *tcp.ForwarderRequest) {
	id := request.ID()
	dst := hostAddr(id.LocalAddress, id.LocalPort)
	addr, ok := relays(n.cfg.Relays).find(dst)
	if !ok {
		var err error
		if addr, err = n.judge.decide(dst); err != nil {
			n.log.add(err)
			request.Complete(true)
			return
		}
	}
	select {
	case n.tcp <- struct{}{}:
	default:
		n.log.add(fmt.Errorf("cannot make a connection: the guest has %d already", cap(n.tcp)))
		request.Complete(true)
		return
	}
	defer func() { <-n.tcp }()
	if !n.begin() {
		request.Complete(false)
		return
	}
	defer n.running.Done()

	conn, err := n.cfg.Dial(ctx, "tcp", addr)
	if err != nil {
		if errors.Is(err, errRefused) {
			n.log.add(err)
		}
		// No answer is what a timeout looks like to the guest too.
		timeout := errors.Is(err, unix.ETIMEDOUT) || errors.Is(err, context.DeadlineExceeded)
		request.Complete(!timeout)
		return
	}
	host, isTCP := conn.(*net.TCPConn)
	if !isTCP {
		conn.Close()
		request.Complete(true)
		return
	}
	var queue waiter.Queue
	guest, terr := request.CreateEndpoint(&queue)
	request.Complete(terr != nil)
	if terr != nil {
		abort(host)
		return
	}
	guest.SocketOptions().SetDelayOption(false)
	guest.SocketOptions().SetKeepAlive(true)
	idle := tcpip.KeepaliveIdleOption(keepaliveIdle)
	_ = guest.SetSockOpt(&idle) // known by every TCP endpoint
	n.carry(ctx, guest, &queue, host)
}

// abort closes with a reset.
func abort(conn *net.TCPConn) {
	// These fail only on a closed connection.
	_ = conn.SetLinger(0)
	_ = conn.Close()
}

// carry moves data both ways until both directions have ended, or one failed:
// then both ends see a reset.
func (n *network) carry(ctx context.Context, guest tcpip.Endpoint, queue *waiter.Queue, host *net.TCPConn) {
	fail := func() {
		guest.Abort()
		abort(host)
	}
	stop := context.AfterFunc(ctx, fail)
	defer stop()
	var both sync.WaitGroup
	both.Go(func() {
		if err := n.fromGuest(guest, queue, host); err != nil {
			fail()
		}
	})
	if err := n.fromHost(guest, queue, host); err != nil {
		fail()
	}
	both.Wait()
	_ = host.Close() // both directions have ended
	guest.Close()
}

// fromGuest returns nil after the guest's FIN was passed on.
func (n *network) fromGuest(guest tcpip.Endpoint, queue *waiter.Queue, host *net.TCPConn) error {
	entry, ready := waiter.NewChannelEntry(waiter.ReadableEvents | waiter.EventHUp | waiter.EventErr)
	queue.EventRegister(&entry)
	defer queue.EventUnregister(&entry)
	for {
		// A buffer is held only while there is data: most connections idle.
		buf := n.buffers.Get().(*[copyBuffer]byte)
		out := tcpip.SliceWriter(buf[:])
		result, terr := guest.Read(&out, tcpip.ReadOptions{})
		var err error
		if terr == nil {
			_, err = host.Write(buf[:result.Count])
		}
		n.buffers.Put(buf)
		switch terr.(type) {
		case nil:
		case *tcpip.ErrWouldBlock:
			<-ready
		case *tcpip.ErrClosedForReceive:
			return host.CloseWrite()
		default:
			return fmt.Errorf("cannot read from the guest: %v", terr)
		}
		if err != nil {
			return err
		}
	}
}

// fromHost returns nil after the host's FIN was passed on.
func (n *network) fromHost(guest tcpip.Endpoint, queue *waiter.Queue, host *net.TCPConn) error {
	entry, ready := waiter.NewChannelEntry(waiter.WritableEvents | waiter.EventHUp | waiter.EventErr)
	queue.EventRegister(&entry)
	defer queue.EventUnregister(&entry)
	raw, err := host.SyscallConn()
	if err != nil {
		return err
	}
	for {
		buf, count, err := n.readReady(raw)
		if err != nil {
			return err
		}
		if count == 0 {
			n.buffers.Put(buf)
			if terr := guest.Shutdown(tcpip.ShutdownWrite); terr != nil {
				return fmt.Errorf("cannot end the stream to the guest: %v", terr)
			}
			return nil
		}
		err = writeAll(guest, ready, buf[:count])
		n.buffers.Put(buf)
		if err != nil {
			return err
		}
	}
}

// readReady reads what there is, and takes a buffer only then. The caller puts
// the buffer back, unless there is an error.
func (n *network) readReady(raw syscall.RawConn) (*[copyBuffer]byte, int, error) {
	var buf *[copyBuffer]byte
	var count int
	var readErr error
	err := raw.Read(func(fd uintptr) bool {
		buf = n.buffers.Get().(*[copyBuffer]byte)
		for {
			count, readErr = unix.Read(int(fd), buf[:])
			if readErr != unix.EINTR {
				break
			}
		}
		if readErr != nil {
			n.buffers.Put(buf)
		}
		return readErr != unix.EAGAIN
	})
	if err != nil {
		return nil, 0, err
	}
	return buf, count, readErr
}

func writeAll(guest tcpip.Endpoint, ready <-chan struct{}, data []byte) error {
	var reader bytes.Reader
	for len(data) > 0 {
		reader.Reset(data)
		written, terr := guest.Write(&reader, tcpip.WriteOptions{})
		data = data[written:]
		switch terr.(type) {
		case nil:
		case *tcpip.ErrWouldBlock:
			<-ready
		default:
			return fmt.Errorf("cannot write to the guest: %v: %w", terr, io.ErrClosedPipe)
		}
	}
	return nil
}
