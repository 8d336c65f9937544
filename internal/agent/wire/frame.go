package wire

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
)

// Upgrade protocols.
const (
	UpgradeExec = "banger-exec"
	UpgradeDial = "banger-dial"
)

// FrameType says what a frame carries. After an upgrade both directions are
// sequences of frames: one byte type, four bytes length of the payload (big
// endian), payload. A stream that ends without the frame that should be its
// last (FrameExit, FrameEOF) means that the peer is gone.
type FrameType byte

// Types of frames, with who sends them.
const (
	FrameData   FrameType = 1 // both: stdin, or bytes of a dialled connection
	FrameEOF    FrameType = 2 // both: the end of FrameData in this direction
	FrameStdout FrameType = 3 // guest
	FrameStderr FrameType = 4 // guest
	FrameResize FrameType = 5 // host: rows and columns, two bytes each
	FrameSignal FrameType = 6 // host: number of a signal, one byte
	FrameExit   FrameType = 7 // guest: exit code and signal, one byte each; the last frame
	FrameError  FrameType = 8 // guest: text; the last frame
	// FrameCredit allows the peer that many more bytes (four bytes) of
	// FrameData. It begins with Window. Other frames need no credit, so that a
	// signal is never behind input that the program does not read.
	FrameCredit FrameType = 9
)

// MaxPayload of a frame: with its header, and that of the multiplexer below,
// it fills two buffers of the guest's serial port exactly.
const MaxPayload = 64<<10 - frameHeader - 12

// Window is how many bytes of FrameData may be sent before any credit.
const Window = 512 << 10

const frameHeader = 5

// FrameWriter writes frames. It may be used from several goroutines.
type FrameWriter struct {
	mu  sync.Mutex
	w   io.Writer
	buf []byte
}

// NewFrameWriter returns a writer of frames to w.
func NewFrameWriter(w io.Writer) *FrameWriter { return &FrameWriter{w: w} }

// WriteFrame writes one frame, or several of the same type if the payload is
// larger than MaxPayload.
func (f *FrameWriter) WriteFrame(t FrameType, payload []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for {
		part := payload[:min(len(payload), MaxPayload)]
		payload = payload[len(part):]
		f.buf = append(f.buf[:0], byte(t))
		f.buf = binary.BigEndian.AppendUint32(f.buf, uint32(len(part)))
		f.buf = append(f.buf, part...)
		if _, err := f.w.Write(f.buf); err != nil {
			return err
		}
		if len(payload) == 0 {
			return nil
		}
	}
}

// FrameReader reads frames, from one goroutine.
type FrameReader struct {
	r   io.Reader
	hdr [frameHeader]byte
	buf []byte
}

// NewFrameReader returns a reader of frames from r.
func NewFrameReader(r io.Reader) *FrameReader { return &FrameReader{r: r} }

// ReadFrame returns the next frame. The payload is valid until the next call.
// The error is io.EOF only between two frames.
func (f *FrameReader) ReadFrame() (FrameType, []byte, error) {
	if _, err := io.ReadFull(f.r, f.hdr[:]); err != nil {
		return 0, nil, err
	}
	n := binary.BigEndian.Uint32(f.hdr[1:])
	if n > MaxPayload {
		return 0, nil, fmt.Errorf("cannot read a frame of %d bytes: at most %d are allowed", n, MaxPayload)
	}
	if cap(f.buf) < int(n) {
		f.buf = make([]byte, max(n, 4096))
	}
	payload := f.buf[:n]
	if _, err := io.ReadFull(f.r, payload); err != nil {
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return 0, nil, err
	}
	return FrameType(f.hdr[0]), payload, nil
}

// Encode returns the payload of a FrameResize.
func (s Size) Encode() []byte {
	return binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, s.Rows), s.Cols)
}

// DecodeSize reads the payload of a FrameResize.
func DecodeSize(b []byte) (Size, error) {
	if len(b) != 4 {
		return Size{}, errors.New("cannot read a resize frame: it has the wrong length")
	}
	return Size{Rows: binary.BigEndian.Uint16(b), Cols: binary.BigEndian.Uint16(b[2:])}, nil
}

// Encode returns the payload of a FrameExit.
func (e Exit) Encode() []byte { return []byte{byte(e.Code), byte(e.Signal)} }

// DecodeExit reads the payload of a FrameExit.
func DecodeExit(b []byte) (Exit, error) {
	if len(b) != 2 {
		return Exit{}, errors.New("cannot read an exit frame: it has the wrong length")
	}
	return Exit{Code: int(b[0]), Signal: int(b[1])}, nil
}

// EncodeCredit returns the payload of a FrameCredit.
func EncodeCredit(n int) []byte { return binary.BigEndian.AppendUint32(nil, uint32(n)) }

// DecodeCredit reads the payload of a FrameCredit.
func DecodeCredit(b []byte) (int, error) {
	if len(b) != 4 {
		return 0, errors.New("cannot read a credit frame: it has the wrong length")
	}
	n := binary.BigEndian.Uint32(b)
	if n > Window {
		return 0, errors.New("cannot read a credit frame: it allows too much")
	}
	return int(n), nil
}
