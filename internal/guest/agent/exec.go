package agent

import (
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/agent/wire"
)

var past = time.Unix(1, 0)

const headerTimeout = time.Minute

// hangupGrace is between SIGHUP and SIGKILL for a program whose host is gone.
const hangupGrace = time.Second

// drainTime is how long output is still read when the program has ended but
// something that it left behind holds its output open. What the program itself
// wrote is in the pipe by then and never lost.
const drainTime = 100 * time.Millisecond

// program is one running program and its stream.
type program struct {
	process *os.Process
	conn    net.Conn
	w       *wire.FrameWriter
	tty     *os.File // nil without a terminal
	done    chan struct{}

	mu     sync.Mutex
	reaped bool // its number may be another's
}

func (s *Server) exec(w http.ResponseWriter, r *http.Request) error {
	if err := upgradable(r, wire.UpgradeExec); err != nil {
		return err
	}
	root, err := s.root()
	if err != nil {
		return err
	}
	var req wire.ExecRequest
	if err := decode(r, &req); err != nil {
		return err
	}
	started, err := start(root, req)
	if err != nil {
		return err
	}
	conn, frames, err := hijack(w, r, wire.UpgradeExec)
	if err != nil {
		started.abandon()
		return err
	}
	defer conn.Close()
	p := &program{process: started.process, conn: conn, w: wire.NewFrameWriter(conn), tty: started.tty, done: make(chan struct{})}
	s.track(p, true)
	defer s.track(p, false)
	p.run(started, frames)
	return nil
}

func (s *Server) track(p *program, running bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !running {
		delete(s.programs, p)
		return
	}
	s.programs[p] = struct{}{}
	if s.stopping.Load() {
		p.conn.Close()
	}
}

// run serves the program until its end.
func (p *program) run(started *started, frames *wire.FrameReader) {
	defer started.close()
	input := wire.NewReceiver(p.w)
	var output sync.WaitGroup
	for _, o := range started.outputs {
		output.Go(func() { p.pump(o.file, o.frame) })
	}
	go p.feed(input, started.stdin)
	go p.receive(frames, input)

	state, err := p.wait()
	for _, o := range started.outputs {
		// A file that takes no deadline is at its end already.
		_ = o.file.SetReadDeadline(time.Now().Add(drainTime))
	}
	output.Wait()
	input.End(net.ErrClosed)
	// The host is gone, or it gets the last frame.
	if err != nil {
		_ = p.w.WriteFrame(wire.FrameError, []byte("cannot wait for the program: "+err.Error()))
		return
	}
	_ = p.w.WriteFrame(wire.FrameExit, exitOf(state).Encode())
}

// wait waits for the program's end. Nobody signals it while it is reaped.
func (p *program) wait() (*os.ProcessState, error) {
	defer close(p.done)
	for {
		err := unix.Waitid(unix.P_PID, p.process.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			break // Wait has the error as well
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.reaped = true
	return p.process.Wait()
}

func exitOf(state *os.ProcessState) wire.Exit {
	if status, ok := state.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return wire.Exit{Code: 128 + int(status.Signal()), Signal: int(status.Signal())}
	}
	return wire.Exit{Code: state.ExitCode()}
}

// A program that writes small pieces without a pause is read at intervals of
// gather: sending each piece by itself costs more than what is in it.
const (
	gather = time.Millisecond
	small  = wire.MaxPayload / 4
)

// pump sends what the program writes.
func (p *program) pump(file *os.File, frame wire.FrameType) {
	buf := make([]byte, wire.MaxPayload)
	var last time.Time
	for {
		n, err := file.Read(buf)
		now := time.Now()
		if 0 < n && n < small && err == nil && now.Sub(last) < 2*gather {
			time.Sleep(gather)
			n, err = p.more(file, buf, n)
		}
		last = now
		if n > 0 {
			if p.w.WriteFrame(frame, buf[:n]) != nil {
				return // receive sees the same end, and kills the program
			}
		}
		if errors.Is(err, os.ErrDeadlineExceeded) {
			p.drain(file, frame, buf)
		}
		if err != nil {
			return // EOF, or EIO of a terminal
		}
	}
}

// more adds to buf[:n] what is in the pipe now.
func (p *program) more(file *os.File, buf []byte, n int) (int, error) {
	raw, err := file.SyscallConn()
	if err != nil {
		return n, err
	}
	err = raw.Read(func(fd uintptr) bool {
		if m, err := unix.Read(int(fd), buf[n:]); err == nil && m > 0 {
			n += m
		}
		return true
	})
	return n, err
}

// maxDrain is the most that a pipe can hold.
const maxDrain = 1 << 20

// drain sends what is in the pipe now.
func (p *program) drain(file *os.File, frame wire.FrameType, buf []byte) {
	if file.SetReadDeadline(time.Time{}) != nil {
		return
	}
	raw, err := file.SyscallConn()
	if err != nil {
		return
	}
	for total := 0; total < maxDrain; {
		n := 0
		err := raw.Read(func(fd uintptr) bool {
			n, _ = unix.Read(int(fd), buf)
			return true
		})
		if err != nil || n <= 0 || p.w.WriteFrame(frame, buf[:n]) != nil {
			return
		}
		total += n
	}
}

// feed gives the program its input. A program that closes its input gets no
// more credit, which stops the host.
func (p *program) feed(input *wire.Receiver, stdin *os.File) {
	_, err := io.Copy(stdin, input)
	if err == nil && p.tty != nil {
		// The end of the input of a terminal is its EOF character, as if typed.
		_, _ = stdin.Write([]byte{eofCharacter(stdin)})
	}
	if p.tty == nil {
		stdin.Close()
	}
}

// receive takes the host's frames. It ends with the stream: the program has
// ended, or the host is gone, or has gone mad; then the program is killed.
func (p *program) receive(frames *wire.FrameReader, input *wire.Receiver) {
	for {
		t, b, err := frames.ReadFrame()
		if err == nil {
			err = p.take(t, b, input)
		}
		if err != nil {
			input.End(err)
			p.conn.Close()
			p.hangup()
			return
		}
	}
}

func (p *program) take(t wire.FrameType, b []byte, input *wire.Receiver) error {
	switch t {
	case wire.FrameData:
		return input.Push(b)
	case wire.FrameEOF:
		input.End(io.EOF)
	case wire.FrameResize:
		size, err := wire.DecodeSize(b)
		if err != nil {
			return err
		}
		if p.tty != nil {
			// A terminal that is gone has no size.
			_ = setSize(p.tty, size)
		}
	case wire.FrameSignal:
		if len(b) != 1 {
			return errors.New("cannot read a signal frame: it has the wrong length")
		}
		p.signal(syscall.Signal(b[0]))
	case wire.FrameStdout, wire.FrameStderr, wire.FrameExit, wire.FrameError, wire.FrameCredit:
		return errors.New("a frame that only the guest sends")
	default:
		return errors.New("unknown frame")
	}
	return nil
}

// signal sends to the program's process group.
func (p *program) signal(sig syscall.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.reaped {
		// A program that has ended but is not waited for takes any signal.
		_ = syscall.Kill(-p.process.Pid, sig)
	}
}

// hangup ends a program whose host is gone, as a terminal's would be: SIGHUP
// first, and what does not heed it is killed with its whole session. What made
// itself a session of its own lives on.
func (p *program) hangup() {
	p.signal(syscall.SIGHUP)
	p.signal(syscall.SIGCONT)
	timer := time.NewTimer(hangupGrace)
	defer timer.Stop()
	select {
	case <-p.done:
		return
	case <-timer.C:
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.reaped {
		return
	}
	for _, pid := range sessionMembers("/proc", p.process.Pid) {
		_ = syscall.Kill(pid, syscall.SIGKILL) // it may be gone by now
	}
}
