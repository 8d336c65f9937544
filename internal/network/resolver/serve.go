// Package resolver answers the DNS questions of guests: those about NAME.vm by
// itself, all others by asking the host's own resolvers.
package resolver

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"banger/internal/network/dns/zone"
)

const (
	dnsPort = 53
	// dnsHeader is the size of a DNS message's header.
	dnsHeader = 12
	// dnsTimeout bounds the wait for one server, dnsIdle the guest's silence
	// on a TCP connection.
	dnsTimeout = 3 * time.Second
	dnsIdle    = 30 * time.Second
	// MaxQuestions bounds the questions being asked at a time, in each of UDP
	// and TCP.
	MaxQuestions = 256
	// maxUDPAnswer is what a UDP answer may take: EDNS(0) sizes are below.
	maxUDPAnswer = 4096
)

var errNoAnswer = errors.New("no DNS server answered")

// Resolver answers questions. Its fields are set before it is used.
type Resolver struct {
	// Names says what NAME.vm means in guests.
	Names zone.Lookup
	// Servers returns the DNS servers that are asked about all other names;
	// what they answer is not looked into.
	Servers func() []netip.AddrPort
	// Failed is told why a question has no answer.
	Failed func(error)
}

// ServePackets answers datagrams until ctx is done and conn closed.
func (r *Resolver) ServePackets(ctx context.Context, conn net.PacketConn) {
	var running sync.WaitGroup
	defer running.Wait()
	slots := make(chan struct{}, MaxQuestions)
	buf := make([]byte, maxUDPAnswer)
	for ctx.Err() == nil {
		count, from, err := conn.ReadFrom(buf)
		if err != nil {
			if ctx.Err() != nil || errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) {
				return
			}
			continue
		}
		if !isQuestion(buf[:count]) {
			continue
		}
		select {
		case slots <- struct{}{}:
		default:
			continue // the guest asks again
		}
		question := bytes.Clone(buf[:count])
		running.Go(func() {
			defer func() { <-slots }()
			answer, err := r.own(question), error(nil)
			if answer == nil {
				answer, err = r.askUDP(ctx, question)
			}
			if err != nil {
				r.Failed(err)
				answer = failure(question)
			}
			// Lost like any datagram if the guest does not take it.
			_, _ = conn.WriteTo(answer, from)
		})
	}
}

// ServeStreams answers on connections until listener is closed.
func (r *Resolver) ServeStreams(ctx context.Context, listener net.Listener) {
	var running sync.WaitGroup
	defer running.Wait()
	slots := make(chan struct{}, MaxQuestions)
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		select {
		case slots <- struct{}{}:
		default:
			conn.Close()
			continue
		}
		running.Go(func() {
			defer func() { <-slots }()
			defer conn.Close()
			stop := context.AfterFunc(ctx, func() { conn.Close() })
			defer stop()
			var err error
			for err == nil {
				err = r.answerStream(ctx, conn)
			}
		})
	}
}

// answerStream answers one question of a TCP connection.
func (r *Resolver) answerStream(ctx context.Context, conn net.Conn) error {
	if err := conn.SetDeadline(time.Now().Add(dnsIdle)); err != nil {
		return err
	}
	question, err := readMessage(conn)
	if err != nil {
		return err
	}
	if !isQuestion(question) {
		return errors.New("not a DNS question")
	}
	if answer := r.own(question); answer != nil {
		return writeMessage(conn, answer)
	}
	answer, err := r.askTCP(ctx, question)
	if err != nil {
		r.Failed(err)
		answer = failure(question)
	}
	return writeMessage(conn, answer)
}

// askUDP asks each resolver over UDP, and then over TCP: some networks let
// only that through.
func (r *Resolver) askUDP(ctx context.Context, question []byte) ([]byte, error) {
	for _, server := range r.Servers() {
		if answer, err := exchangeUDP(ctx, server, question); err == nil {
			return answer, nil
		}
	}
	answer, err := r.askTCP(ctx, question)
	if err != nil {
		return nil, err
	}
	if len(answer) > udpLimit(question) {
		return truncated(question), nil
	}
	return answer, nil
}

func (r *Resolver) askTCP(ctx context.Context, question []byte) ([]byte, error) {
	for _, server := range r.Servers() {
		if answer, err := exchangeTCP(ctx, server, question); err == nil {
			return answer, nil
		}
	}
	return nil, errNoAnswer
}

// The resolvers are the host's choice, loopback and private ones included: no
// policy applies, since it is this process that asks, and only DNS questions.
func dialResolver(ctx context.Context, network string, server netip.AddrPort) (net.Conn, error) {
	dialer := net.Dialer{Timeout: dnsTimeout}
	conn, err := dialer.DialContext(ctx, network, server.String())
	if err != nil {
		return nil, err
	}
	if err := conn.SetDeadline(time.Now().Add(dnsTimeout)); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

func exchangeUDP(ctx context.Context, server netip.AddrPort, question []byte) ([]byte, error) {
	conn, err := dialResolver(ctx, "udp", server)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	if _, err := conn.Write(question); err != nil {
		return nil, err
	}
	buf := make([]byte, 64<<10)
	for {
		count, err := conn.Read(buf)
		if err != nil {
			return nil, err
		}
		if answers(buf[:count], question) {
			return bytes.Clone(buf[:count]), nil
		}
	}
}

func exchangeTCP(ctx context.Context, server netip.AddrPort, question []byte) ([]byte, error) {
	conn, err := dialResolver(ctx, "tcp", server)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	if err := writeMessage(conn, question); err != nil {
		return nil, err
	}
	answer, err := readMessage(conn)
	if err != nil {
		return nil, err
	}
	if !answers(answer, question) {
		return nil, errors.New("the answer belongs to another question")
	}
	return answer, nil
}

// readMessage reads a message with its length before it, as DNS is on TCP.
func readMessage(r io.Reader) ([]byte, error) {
	var size [2]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		return nil, err
	}
	message := make([]byte, binary.BigEndian.Uint16(size[:]))
	_, err := io.ReadFull(r, message)
	return message, err
}

func writeMessage(w io.Writer, message []byte) error {
	if len(message) > 0xffff {
		return fmt.Errorf("cannot send a DNS message of %d bytes: at most %d are allowed", len(message), 0xffff)
	}
	_, err := w.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(message))), message...))
	return err
}

// Flags in the third byte of a DNS header.
const (
	flagResponse  = 0x80
	flagTruncated = 0x02
	flagsKept     = 0x79 // opcode and "recursion desired"
	codeServFail  = 2
)

func isQuestion(message []byte) bool {
	return len(message) >= dnsHeader && message[2]&flagResponse == 0
}

// answers says whether a message can be the answer to a question: the same id
// and, if it repeats the question, the same one.
func answers(message, question []byte) bool {
	if len(message) < dnsHeader || message[2]&flagResponse == 0 || !bytes.Equal(message[:2], question[:2]) {
		return false
	}
	if binary.BigEndian.Uint16(message[4:6]) == 0 {
		return true // some errors come without it
	}
	end := questionEnd(question)
	return end == 0 || len(message) >= end && bytes.EqualFold(message[dnsHeader:end], question[dnsHeader:end])
}

// questionEnd returns where the first question of a message ends, 0 if it has
// none that can be read.
func questionEnd(message []byte) int {
	if len(message) < dnsHeader || binary.BigEndian.Uint16(message[4:6]) == 0 {
		return 0
	}
	at := dnsHeader
	for at < len(message) {
		size := int(message[at])
		switch {
		case size == 0:
			if at+5 > len(message) {
				return 0
			}
			return at + 5
		case size > 63:
			return 0 // compressed: never in a question
		}
		at += 1 + size
	}
	return 0
}

// reply makes an answer without records to a question.
func reply(question []byte, flags, code byte) []byte {
	end := questionEnd(question)
	if end == 0 {
		end = dnsHeader
	}
	answer := bytes.Clone(question[:end])
	answer[2] = question[2]&flagsKept | flagResponse | flags
	answer[3] = 0x80 | code // recursion available
	clear(answer[4:dnsHeader])
	if end > dnsHeader {
		answer[5] = 1
	}
	return answer
}

func failure(question []byte) []byte { return reply(question, 0, codeServFail) }

func truncated(question []byte) []byte { return reply(question, flagTruncated, 0) }

// udpLimit is the size of the largest UDP answer that the asker takes: what
// EDNS(0) says, else 512 bytes.
func udpLimit(question []byte) int {
	const classic = 512
	end := questionEnd(question)
	// The OPT record: an empty name, type 41, and the size as its class.
	if end == 0 || len(question) < end+5 || binary.BigEndian.Uint16(question[10:12]) == 0 || question[end] != 0 || binary.BigEndian.Uint16(question[end+1:end+3]) != 41 {
		return classic
	}
	return min(max(int(binary.BigEndian.Uint16(question[end+3:end+5])), classic), maxUDPAnswer)
}
