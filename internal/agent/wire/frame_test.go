package wire

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"time"
)

func TestFrames(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	w := NewFrameWriter(&b)
	large := bytes.Repeat([]byte("x"), MaxPayload+1)
	for _, payload := range [][]byte{[]byte("hello"), nil, large} {
		if err := w.WriteFrame(FrameStdout, payload); err != nil {
			t.Fatal(err)
		}
	}
	r := NewFrameReader(&b)
	for _, want := range [][]byte{[]byte("hello"), {}, large[:MaxPayload], []byte("x")} {
		typ, got, err := r.ReadFrame()
		if err != nil || typ != FrameStdout || !bytes.Equal(got, want) {
			t.Fatalf("got %d, %d bytes, %v; want %d bytes", typ, len(got), err, len(want))
		}
	}
	if _, _, err := r.ReadFrame(); !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %v", err)
	}
}

func TestBrokenFrames(t *testing.T) {
	t.Parallel()
	for _, b := range []string{"\x01\x00", "\x01\x00\x00\x00\x05abc", "\x01\xff\xff\xff\xff"} {
		if _, _, err := NewFrameReader(bytes.NewReader([]byte(b))).ReadFrame(); err == nil || errors.Is(err, io.EOF) {
			t.Errorf("%q: %v", b, err)
		}
	}
}

func FuzzReadFrame(f *testing.F) {
	f.Add([]byte("\x01\x00\x00\x00\x01a\x06\x00\x00\x00\x01\x0f"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := NewFrameReader(bytes.NewReader(b))
		for {
			typ, payload, err := r.ReadFrame()
			if err != nil {
				return
			}
			if len(payload) > MaxPayload {
				t.Fatalf("a payload of %d bytes", len(payload))
			}
			switch typ {
			case FrameResize:
				if size, err := DecodeSize(payload); err == nil && !bytes.Equal(size.Encode(), payload) {
					t.Error("a size changed")
				}
			case FrameExit:
				if exit, err := DecodeExit(payload); err == nil && !bytes.Equal(exit.Encode(), payload) {
					t.Error("an exit changed")
				}
			case FrameCredit:
				if n, err := DecodeCredit(payload); err == nil && (n < 0 || n > Window) {
					t.Errorf("credit %d", n)
				}
			case FrameData, FrameEOF, FrameStdout, FrameStderr, FrameSignal, FrameError:
			}
		}
	})
}

// link joins a Sender and a Receiver.
func link(t *testing.T) (*Sender, *Receiver, func()) {
	t.Helper()
	a, b := net.Pipe()
	t.Cleanup(func() { a.Close(); b.Close() })
	s, r := NewSender(NewFrameWriter(a)), NewReceiver(NewFrameWriter(b))
	var done sync.WaitGroup
	done.Go(func() {
		for f := NewFrameReader(b); ; {
			typ, p, err := f.ReadFrame()
			switch {
			case err != nil:
				r.End(err)
				return
			case typ == FrameEOF:
				r.End(io.EOF)
			default:
				if err := r.Push(p); err != nil {
					r.End(err)
					return
				}
			}
		}
	})
	done.Go(func() {
		for f := NewFrameReader(a); ; {
			_, p, err := f.ReadFrame()
			if err == nil {
				err = s.Allow(p)
			}
			if err != nil {
				s.Fail(err)
				return
			}
		}
	})
	return s, r, func() { a.Close(); b.Close(); done.Wait() }
}

func TestFlow(t *testing.T) {
	t.Parallel()
	s, r, end := link(t)
	defer end()
	message := bytes.Repeat([]byte("0123456789"), Window/2)
	go func() {
		_, _ = s.Write(message)
		_ = s.CloseWrite()
	}()
	got, err := io.ReadAll(r)
	if err != nil || !bytes.Equal(got, message) {
		t.Errorf("got %d bytes of %d, %v", len(got), len(message), err)
	}
	if _, err := s.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("write after the end: %v", err)
	}
}

func TestFlowIsBounded(t *testing.T) {
	t.Parallel()
	s, r, end := link(t)
	defer end()
	_ = s
	s.SetDeadline(time.Now().Add(100 * time.Millisecond))
	n, err := s.Write(make([]byte, 2*Window))
	if n != Window || !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("nobody reads: wrote %d, %v", n, err)
	}
	// What was written may be on its way still.
	for begun := time.Now(); unread(r) < Window; time.Sleep(time.Millisecond) {
		if time.Since(begun) > time.Minute {
			t.Fatalf("%d bytes arrived", unread(r))
		}
	}
	// A peer that does not keep to it is found out.
	if err := r.Push(make([]byte, 1)); err == nil {
		t.Error("more than the window was taken")
	}
	r.SetDeadline(time.Now().Add(-time.Second))
	if _, err := r.Read(make([]byte, Window)); err != nil {
		t.Errorf("what is there can be read: %v", err)
	}
	if _, err := io.ReadFull(r, make([]byte, Window)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("nothing is there: %v", err)
	}
}

func unread(r *Receiver) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.buf) - r.off
}

func TestFailWakes(t *testing.T) {
	t.Parallel()
	s, r, end := link(t)
	defer end()
	reason := errors.New("reason")
	time.AfterFunc(10*time.Millisecond, func() {
		s.Fail(reason)
		r.End(reason)
	})
	if _, err := s.Write(make([]byte, 2*Window)); !errors.Is(err, reason) {
		t.Errorf("write: %v", err)
	}
	if _, err := io.Copy(io.Discard, struct{ io.Reader }{r}); !errors.Is(err, reason) {
		t.Errorf("read: %v", err)
	}
}
