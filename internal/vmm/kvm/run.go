package kvm

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// minSpeed is the least speed, in instructions a second, of a KVM that is
	// better than none. Hardware does a thousand million and more of the
	// probe's loop, KVM within an emulated machine a hundred million. A
	// hypervisor that emulates guest code does a few million at most.
	minSpeed = 25e6
	// deadline bounds the whole run. It is generous with a busy host:
	// hardware needs some 10 ms.
	deadline = 1200 * time.Millisecond
	// grace is what a thread in the kernel gets to notice that it is over.
	grace = 300 * time.Millisecond
)

// progress is how far the guest got.
type progress struct {
	instructions uint64
	// best is the least time one chunk took; 0 if none was finished. It does
	// not suffer from a host that was busy now and then.
	best time.Duration
	err  error
}

// run judges device. The guest runs on a thread of its own that is told to
// stop at the deadline; one that the kernel does not let go even then is
// given up, and ends by itself since the guest's work is bounded. Such a
// verdict is not final: a host that is busy enough looks the same.
func run(ctx context.Context, device string) (_ Verdict, final bool) {
	ctx, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	result := make(chan progress, 1)
	kicks := make(chan func(), 1)
	go func() {
		// Never unlocked: the thread ends with the goroutine.
		runtime.LockOSThread()
		result <- runGuest(ctx, device, kicks)
	}()
	select {
	case p := <-result:
		return judge(device, p), true
	case <-ctx.Done():
	}
	kick := func() {} // until it has got that far
	over := time.NewTimer(grace)
	defer over.Stop()
	again := time.NewTicker(10 * time.Millisecond)
	defer again.Stop()
	for {
		kick()
		select {
		case kick = <-kicks:
		case p := <-result:
			return judge(device, p), true
		case <-again.C:
		case <-over.C:
			return Verdict{Reason: device + " opens, but a guest run on it hangs"}, false
		}
	}
}

func judge(device string, p progress) Verdict {
	if p.err != nil {
		return Verdict{Reason: fmt.Sprintf("%s opens, but does not run a guest: %v", device, p.err)}
	}
	if p.best == 0 {
		return Verdict{
			Reason: fmt.Sprintf("%s opens, but is uselessly slow: %d instructions of a guest took over %v", device, p.instructions, deadline),
			Speed:  float64(p.instructions) / deadline.Seconds(),
		}
	}
	speed := chunkInstructions / p.best.Seconds()
	if speed < minSpeed {
		const hardware = 1e9
		return Verdict{
			Reason: fmt.Sprintf("%s opens, but runs guest code some %.0f times slower than hardware does", device, hardware/speed),
			Speed:  speed,
		}
	}
	return Verdict{Working: true, Speed: speed}
}

// runGuest runs the guest until it is done or ctx ends. Once there is a
// virtual CPU, it offers what makes that one return from the kernel.
func runGuest(ctx context.Context, device string, kicks chan<- func()) (p progress) {
	file, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		return progress{err: err}
	}
	defer file.Close()
	g, err := newGuest(int(file.Fd()))
	if err != nil {
		return progress{err: err}
	}
	defer func() {
		if err := g.close(); err != nil && p.err == nil {
			p.err = err
		}
	}()
	pid, tid := unix.Getpid(), unix.Gettid()
	kicks <- func() {
		g.stop()
		// The signal the Go runtime preempts with: its handler takes one that
		// comes for no reason.
		_ = unix.Tgkill(pid, tid, unix.SIGURG)
	}
	for range chunks {
		start := time.Now()
		finished, err := g.run()
		if err != nil {
			p.err = err
			return p
		}
		if !finished {
			if ctx.Err() == nil {
				continue // a stray signal
			}
			left, err := g.left()
			p.instructions += chunkInstructions - min(left, chunkInstructions)
			p.err = err
			return p
		}
		p.instructions += chunkInstructions
		if took := time.Since(start); p.best == 0 || took < p.best {
			p.best = took
		}
	}
	return p
}
