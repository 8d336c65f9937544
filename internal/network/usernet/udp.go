package usernet

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/udp"
	"gvisor.dev/gvisor/pkg/waiter"
)

// How long a flow without packets lives: as long as in Linux' connection
// tracking, before and after the other side has answered.
const (
	udpIdle         = 30 * time.Second
	udpIdleAnswered = 120 * time.Second
)

// acceptUDP answers the first packet of a flow. If it returns false, the guest
// is told that the port is unreachable. It runs where packets are read, and so
// never waits.
func (n *network) acceptUDP(ctx context.Context, request *udp.ForwarderRequest) bool {
	id := request.ID()
	addr, err := n.judge.decide(hostAddr(id.LocalAddress, id.LocalPort))
	if err != nil {
		n.log.add(err)
		return false
	}
	select {
	case n.udp <- struct{}{}:
	default:
		return false
	}
	if !n.begin() {
		<-n.udp
		return true
	}
	started := false
	defer func() {
		if !started {
			<-n.udp
			n.running.Done()
		}
	}()
	// To connect a UDP socket sends nothing.
	conn, err := n.cfg.Dial(ctx, "udp", addr)
	if err != nil {
		if errors.Is(err, errRefused) {
			n.log.add(err)
		}
		return false
	}
	host, ok := conn.(*net.UDPConn)
	if !ok {
		conn.Close()
		return false
	}
	var queue waiter.Queue
	guest, terr := request.CreateEndpoint(&queue)
	if terr != nil {
		_ = host.Close()
		// Taken by a flow that began just now, or the stack is closing.
		return true
	}
	flow := &flow{n: n, id: id, guest: guest, queue: &queue, host: host, closed: make(chan struct{})}
	started = true
	go func() {
		defer n.running.Done()
		defer func() { <-n.udp }()
		flow.run(ctx)
	}()
	return true
}

// flow is one pair of UDP ports that talk.
type flow struct {
	n     *network
	id    stack.TransportEndpointID
	guest tcpip.Endpoint
	queue *waiter.Queue
	host  *net.UDPConn

	packets   atomic.Uint64
	answered  atomic.Bool
	closeOnce sync.Once
	closed    chan struct{}
}

func (f *flow) close() {
	f.closeOnce.Do(func() {
		close(f.closed)
		_ = f.host.Close()
		f.guest.Close()
	})
}

func (f *flow) run(ctx context.Context) {
	defer f.close()
	stop := context.AfterFunc(ctx, f.close)
	defer stop()
	var others sync.WaitGroup
	others.Go(f.expire)
	others.Go(f.fromGuest)
	f.fromHost()
	f.close()
	others.Wait()
}

// expire closes a flow that has been quiet for a while.
func (f *flow) expire() {
	var last uint64
	for {
		idle := udpIdle
		if f.answered.Load() {
			idle = udpIdleAnswered
		}
		timer := time.NewTimer(idle)
		select {
		case <-f.closed:
			timer.Stop()
			return
		case <-timer.C:
		}
		now := f.packets.Load()
		if now == last {
			f.close()
			return
		}
		last = now
	}
}

func (f *flow) fromGuest() {
	defer f.close()
	entry, ready := waiter.NewChannelEntry(waiter.ReadableEvents | waiter.EventHUp | waiter.EventErr)
	f.queue.EventRegister(&entry)
	defer f.queue.EventUnregister(&entry)
	for {
		buf := f.n.buffers.Get().(*[copyBuffer]byte)
		out := tcpip.SliceWriter(buf[:])
		result, terr := f.guest.Read(&out, tcpip.ReadOptions{})
		if terr == nil {
			f.packets.Add(1)
			// A datagram that cannot be sent is lost, as any can be; what is
			// wrong with the socket is seen by fromHost.
			_, _ = f.host.Write(buf[:result.Count])
		}
		f.n.buffers.Put(buf)
		switch terr.(type) {
		case nil:
		case *tcpip.ErrWouldBlock:
			select {
			case <-ready:
			case <-f.closed:
				return
			}
		default:
			return
		}
	}
}

func (f *flow) fromHost() {
	raw, err := f.host.SyscallConn()
	if err != nil {
		return
	}
	for {
		buf, count, err := f.n.readReady(raw)
		if errors.Is(err, unix.ECONNREFUSED) {
			f.n.portUnreachable(f.id)
			return
		}
		if err != nil {
			return
		}
		f.packets.Add(1)
		f.answered.Store(true)
		err = writeDatagram(f.guest, buf[:count])
		f.n.buffers.Put(buf)
		if err != nil {
			return
		}
	}
}
