package mux

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"time"
)

// The handshake is three lines, each with a newline before it that ends
// whatever was in the pipe:
//
//	host:  banger-mux-1 hello NONCE     again and again
//	guest: banger-mux-1 ok NONCE        once per nonce
//	host:  banger-mux-1 go NONCE        then yamux
//
// Everything else is skipped by both. The third line makes the repetitions of
// the first harmless.
const (
	prefix    = "banger-mux-1 "
	nonceSize = 32
	helloWord = "hello "
	okWord    = "ok "
	goWord    = "go "
)

// helloInterval is the time between two hellos of the host.
const helloInterval = 100 * time.Millisecond

// A guest that did not see its host leave, because another came at once, takes
// the hellos for the rest of a frame, up to maxWrite bytes. So every
// paddedHello-th has that many bytes before it.
const paddedHello = 10

func line(word, nonce string) []byte {
	return []byte("\n" + prefix + word + nonce + "\n")
}

// parse returns the nonce of a line with the given word.
func parse(b []byte, word string) (nonce string, ok bool) {
	rest, ok := bytes.CutPrefix(b, []byte(prefix+word))
	if !ok || len(rest) != nonceSize+1 || rest[nonceSize] != '\n' {
		return "", false
	}
	rest = rest[:nonceSize]
	if _, err := hex.DecodeString(string(rest)); err != nil {
		return "", false
	}
	return string(rest), true
}

// readLine returns the next line, or a piece of it if it is very long: no line
// of the handshake is. The result is valid until the next read.
func readLine(r *bufio.Reader) ([]byte, error) {
	b, err := r.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		return nil, nil
	}
	return b, err
}

// connect is the host's side. What follows must be read from the reader it
// returns.
func connect(ctx context.Context, conn net.Conn) (*bufio.Reader, error) {
	var random [nonceSize / 2]byte
	_, _ = rand.Read(random[:]) // never fails
	nonce := hex.EncodeToString(random[:])

	ctx, cancel := context.WithCancel(ctx)
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	sent := make(chan struct{})
	answered := make(chan struct{})
	go func() {
		defer close(sent)
		sendHellos(ctx, conn, nonce, answered)
	}()

	r := bufio.NewReaderSize(conn, readBuffer)
	var err error
	for {
		var b []byte
		if b, err = readLine(r); err != nil {
			break
		}
		if got, ok := parse(b, okWord); ok && got == nonce {
			break
		}
	}
	close(answered)
	<-sent // a hello must be whole before what follows
	if !stop() {
		err = context.Cause(ctx)
	}
	cancel()
	if err == nil {
		_, err = conn.Write(line(goWord, nonce))
	}
	return r, err
}

func sendHellos(ctx context.Context, w io.Writer, nonce string, answered <-chan struct{}) {
	ticker := time.NewTicker(helloInterval)
	defer ticker.Stop()
	hello := line(helloWord, nonce)
	padded := append(bytes.Repeat([]byte{' '}, maxWrite), hello...)
	for i := 1; ; i++ {
		b := hello
		if i%paddedHello == 0 {
			b = padded
		}
		if _, err := w.Write(b); err != nil {
			return // the reader sees the same end
		}
		select {
		case <-ticker.C:
		case <-answered:
			return
		case <-ctx.Done():
			return
		}
	}
}

// readBuffer takes what the guest's driver gives at once.
const readBuffer = 64 << 10

// accept is the guest's side. What follows must be read from the reader it
// returns.
func accept(port io.ReadWriter) (*bufio.Reader, error) {
	r := bufio.NewReaderSize(port, readBuffer)
	nonce := ""
	for {
		b, err := readLine(r)
		if err != nil {
			return nil, err
		}
		if got, ok := parse(b, helloWord); ok && got != nonce {
			nonce = got
			if _, err := port.Write(line(okWord, nonce)); err != nil {
				return nil, err
			}
		}
		if got, ok := parse(b, goWord); ok && got == nonce {
			return r, nil
		}
	}
}
