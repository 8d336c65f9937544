package usernet

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	"golang.org/x/sys/unix"
	"gvisor.dev/gvisor/pkg/buffer"

	"banger/internal/vmm/netns"
)

const (
	// maxFrame is more than a VMM ever sends (QEMU's NET_BUFSIZE).
	maxFrame = 4096 + 65536
	// maxPrefix is what a frame has before it at most.
	maxPrefix = netns.HeaderSize
)

// carrier takes frames to and from a VMM.
type carrier struct {
	io.Writer
	io.Closer
	// next returns the next frame, which can have any size, or io.EOF.
	next func() (*buffer.View, error)
	// prefix adds to out what goes before a frame of so many bytes.
	prefix func(out []byte, size int) []byte
	// gather is how many bytes go into one write if there are several frames.
	gather int
}

// carry finds out how the VMM at the other end of a connection sends frames: on
// the connection itself, each with its length before it, as QEMU does, or on a
// TAP that comes with the first byte ([netns.Connect]). A TAP is closed when the
// connection ends. Where that first byte never comes the error is io.EOF.
func carry(conn net.Conn) (carrier, error) {
	socket, ok := conn.(*net.UnixConn)
	if !ok {
		return streamCarrier(conn, conn), nil
	}
	first, rights := make([]byte, 1), make([]byte, unix.CmsgSpace(4))
	n, m, _, _, err := socket.ReadMsgUnix(first, rights)
	if err == nil && n == 0 {
		err = io.EOF
	}
	if err != nil {
		return carrier{}, err
	}
	if m == 0 {
		return streamCarrier(io.MultiReader(bytes.NewReader(first), conn), conn), nil
	}
	tap, err := received(rights[:m])
	if err != nil {
		return carrier{}, fmt.Errorf("cannot take a TAP device over: %w", err)
	}
	go func() {
		// Nothing comes any more but the end.
		_, _ = conn.Read(first)
		_ = tap.Close()
	}()
	return tapCarrier(tap), nil
}

// received returns the file in a control message.
func received(rights []byte) (*os.File, error) {
	messages, err := unix.ParseSocketControlMessage(rights)
	if err != nil {
		return nil, err
	}
	if len(messages) != 1 {
		return nil, fmt.Errorf("%d control messages came in place of one", len(messages))
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		return nil, err
	}
	if len(fds) != 1 {
		return nil, fmt.Errorf("%d descriptors came in place of one", len(fds))
	}
	if err := unix.SetNonblock(fds[0], true); err != nil {
		_ = unix.Close(fds[0])
		return nil, err
	}
	return os.NewFile(uintptr(fds[0]), "tap"), nil
}

func streamCarrier(from io.Reader, to io.WriteCloser) carrier {
	reader := bufio.NewReaderSize(from, outBuffer)
	var prefix [4]byte
	return carrier{
		Writer: to, Closer: to, gather: outBuffer,
		prefix: func(out []byte, size int) []byte { return binary.BigEndian.AppendUint32(out, uint32(size)) },
		next: func() (*buffer.View, error) {
			if _, err := io.ReadFull(reader, prefix[:]); err != nil {
				if err == io.EOF {
					return nil, err
				}
				return nil, fmt.Errorf("cannot read a frame's length: %w", noEnd(err))
			}
			size := int64(binary.BigEndian.Uint32(prefix[:]))
			if size > maxFrame {
				return nil, fmt.Errorf("cannot read a frame: it claims %d bytes and at most %d are allowed", size, maxFrame)
			}
			view := buffer.NewViewSize(int(size))
			if _, err := io.ReadFull(reader, view.AsSlice()); err != nil {
				view.Release()
				return nil, fmt.Errorf("cannot read a frame: %w", noEnd(err))
			}
			return view, nil
		},
	}
}

// noEnd keeps an end that comes too early from being taken for the right one.
func noEnd(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

func tapCarrier(tap *os.File) carrier {
	in := make([]byte, netns.HeaderSize+maxFrame)
	var none [netns.HeaderSize]byte
	return carrier{
		Writer: tap, Closer: tap, gather: 0, // a write is a frame
		prefix: func(out []byte, _ int) []byte { return append(out, none[:]...) },
		next: func() (*buffer.View, error) {
			n, err := tap.Read(in)
			if errors.Is(err, os.ErrClosed) {
				return nil, io.EOF
			}
			if err != nil {
				return nil, fmt.Errorf("cannot read a frame: %w", err)
			}
			// What the header says of checksums and segments does not matter
			// here: they are not looked at, and not undone.
			return buffer.NewViewWithData(in[min(n, netns.HeaderSize):n]), nil
		},
	}
}
