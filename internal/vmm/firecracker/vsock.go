package firecracker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"
)

// handshakeTimeout bounds the exchange that Firecracker itself does not bound:
// a guest that does not run leaves a connection hanging.
const handshakeTimeout = 5 * time.Second

// dialVsock connects to a port in the guest through Firecracker's socket:
// "CONNECT PORT" on a line, answered with "OK HOSTPORT" on a line, or with the
// end of the connection where nothing listens (Firecracker, docs/vsock.md).
func dialVsock(ctx context.Context, socket string, port int) (_ net.Conn, err error) {
	conn, err := new(net.Dialer).DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, fmt.Errorf("cannot reach the guest: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer func() {
		if !stop() && err == nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			conn.Close()
		}
	}()
	if err := conn.SetDeadline(time.Now().Add(handshakeTimeout)); err != nil {
		return nil, fmt.Errorf("cannot reach the guest: %w", err)
	}
	// One write: Firecracker reads it without waiting for more.
	if _, err := fmt.Fprintf(conn, "CONNECT %d\n", port); err != nil {
		return nil, fmt.Errorf("cannot reach the guest: %w", err)
	}
	line, err := readLine(conn)
	if err != nil {
		return nil, fmt.Errorf("cannot reach the guest: nothing answers on its vsock port %d: %w", port, err)
	}
	if rest, ok := strings.CutPrefix(line, "OK "); !ok || !isNumber(rest) {
		return nil, fmt.Errorf("cannot reach the guest: unexpected answer %q on its vsock", line)
	}
	if err := conn.SetDeadline(time.Time{}); err != nil {
		return nil, fmt.Errorf("cannot reach the guest: %w", err)
	}
	return conn, nil
}

func isNumber(s string) bool {
	_, err := strconv.ParseUint(s, 10, 32)
	return err == nil
}

// readLine reads up to a line's end and not one byte more: what follows is the
// guest's.
func readLine(r io.Reader) (string, error) {
	const longest = 32
	line := make([]byte, 0, longest)
	one := make([]byte, 1)
	for len(line) < longest {
		if _, err := io.ReadFull(r, one); err != nil {
			return "", err
		}
		if one[0] == '\n' {
			return string(line), nil
		}
		line = append(line, one[0])
	}
	return "", errors.New("the answer is too long")
}
