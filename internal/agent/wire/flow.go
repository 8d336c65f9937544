package wire

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// Sender is one direction of FrameData: it sends within the credit that the
// peer gives. Its methods may be called from any goroutine, writes are whole.
type Sender struct {
	w       *FrameWriter
	writing sync.Mutex // held by one Write

	mu       sync.Mutex
	cond     sync.Cond
	credit   int
	err      error
	deadline deadline
}

// NewSender returns a sender with the initial credit.
func NewSender(w *FrameWriter) *Sender {
	s := &Sender{w: w, credit: Window}
	s.cond.L = &s.mu
	return s
}

// Allow takes the payload of a FrameCredit.
func (s *Sender) Allow(payload []byte) error {
	n, err := DecodeCredit(payload)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.credit = min(s.credit+n, Window)
	s.cond.Broadcast()
	return nil
}

// Fail makes this and every later Write return err.
func (s *Sender) Fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = err
	}
	s.cond.Broadcast()
}

// SetDeadline limits the wait for credit, as net.Conn's SetWriteDeadline does.
func (s *Sender) SetDeadline(t time.Time) { s.deadline.set(&s.mu, &s.cond, t) }

func (s *Sender) take(n int) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for s.err == nil && s.credit == 0 && !s.deadline.passed() {
		s.cond.Wait()
	}
	switch {
	case s.err != nil:
		return 0, s.err
	case s.credit == 0:
		return 0, os.ErrDeadlineExceeded
	}
	n = min(n, s.credit)
	s.credit -= n
	return n, nil
}

// Write sends b as FrameData.
func (s *Sender) Write(b []byte) (int, error) {
	s.writing.Lock()
	defer s.writing.Unlock()
	total := 0
	for total < len(b) {
		n, err := s.take(min(len(b)-total, MaxPayload))
		if err != nil {
			return total, err
		}
		if err := s.w.WriteFrame(FrameData, b[total:total+n]); err != nil {
			return total, err
		}
		total += n
	}
	return total, nil
}

// CloseWrite sends FrameEOF; later Writes fail. It is idempotent.
func (s *Sender) CloseWrite() error {
	s.writing.Lock()
	defer s.writing.Unlock()
	s.mu.Lock()
	err := s.err
	if err == nil {
		s.err = net.ErrClosed
	}
	s.mu.Unlock()
	if err != nil {
		return nil //nolint:nilerr // there is nothing left to close
	}
	return s.w.WriteFrame(FrameEOF, nil)
}

// Receiver is the other end of a Sender: it holds at most Window bytes that
// were not read yet, and gives credit as they are read.
type Receiver struct {
	w *FrameWriter

	mu       sync.Mutex
	cond     sync.Cond
	buf      []byte // buf[off:] is unread
	off      int
	owed     int // read, but no credit given yet
	err      error
	deadline deadline
}

// creditUnit is how many bytes are read before credit is given for them.
const creditUnit = Window / 4

// NewReceiver returns a receiver that gives credit through w.
func NewReceiver(w *FrameWriter) *Receiver {
	r := &Receiver{w: w}
	r.cond.L = &r.mu
	return r
}

var errOverrun = errors.New("cannot take more data: the peer sent more than it may")

// Push takes the payload of a FrameData. It never blocks.
func (r *Receiver) Push(payload []byte) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err != nil {
		return nil //nolint:nilerr // nobody will read it
	}
	if len(r.buf)-r.off+r.owed+len(payload) > Window {
		return errOverrun
	}
	if r.off == len(r.buf) {
		r.buf, r.off = r.buf[:0], 0
	} else if len(r.buf)+len(payload) > cap(r.buf) && r.off > 0 {
		r.buf = append(r.buf[:0], r.buf[r.off:]...)
		r.off = 0
	}
	r.buf = append(r.buf, payload...)
	r.cond.Broadcast()
	return nil
}

// End makes Read return err, io.EOF for a FrameEOF, once everything that came
// before is read.
func (r *Receiver) End(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err == nil {
		r.err = err
	}
	r.cond.Broadcast()
}

// SetDeadline limits the wait for data, as net.Conn's SetReadDeadline does.
func (r *Receiver) SetDeadline(t time.Time) { r.deadline.set(&r.mu, &r.cond, t) }

// Read reads what was pushed.
func (r *Receiver) Read(p []byte) (int, error) {
	n, owed, err := r.take(p)
	if owed > 0 {
		// A failure is that of the connection, which Read will report.
		_ = r.w.WriteFrame(FrameCredit, EncodeCredit(owed))
	}
	return n, err
}

func (r *Receiver) take(p []byte) (n, owed int, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for r.off == len(r.buf) && r.err == nil && !r.deadline.passed() && len(p) > 0 {
		r.cond.Wait()
	}
	if r.off == len(r.buf) {
		switch {
		case len(p) == 0:
			return 0, 0, nil
		case r.err != nil:
			return 0, 0, r.err
		}
		return 0, 0, os.ErrDeadlineExceeded
	}
	n = copy(p, r.buf[r.off:])
	r.off += n
	r.owed += n
	if r.owed >= creditUnit && r.err == nil {
		owed, r.owed = r.owed, 0
	}
	return n, owed, nil
}

// WriteTo lets io.Copy read without a buffer of its own size.
func (r *Receiver) WriteTo(w io.Writer) (int64, error) {
	buf := make([]byte, MaxPayload)
	var total int64
	for {
		n, err := r.Read(buf)
		if n > 0 {
			written, err := w.Write(buf[:n])
			total += int64(written)
			if err != nil {
				return total, err
			}
		}
		if errors.Is(err, io.EOF) {
			return total, nil
		}
		if err != nil {
			return total, err
		}
	}
}

// deadline wakes a condition when it has passed. It is guarded by the
// condition's lock.
type deadline struct {
	at    time.Time
	timer *time.Timer
}

func (d *deadline) passed() bool { return !d.at.IsZero() && !time.Now().Before(d.at) }

func (d *deadline) set(mu *sync.Mutex, cond *sync.Cond, at time.Time) {
	mu.Lock()
	defer mu.Unlock()
	d.at = at
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	if !at.IsZero() {
		d.timer = time.AfterFunc(time.Until(at), func() {
			mu.Lock()
			defer mu.Unlock()
			cond.Broadcast()
		})
	}
	cond.Broadcast()
}
