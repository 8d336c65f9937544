// Package dns answers questions about NAME.vm with the loopback address of the
// VM of that name, on a port of the host's loopback interface. It is
// authoritative for its zone and refuses everything else.
package dns

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"time"

	"github.com/miekg/dns"

	"banger/internal/network/dns/zone"
)

const (
	// maxAtOnce bounds the questions and connections being served.
	maxAtOnce  = 128
	tcpTimeout = 5 * time.Second
)

// Server answers over UDP and TCP.
type Server struct {
	udp, tcp *dns.Server
	port     int
}

// Listen takes port of 127.0.0.1, 0 for any free one, and answers in the
// background until Close. The text owner says whose it is.
func Listen(ctx context.Context, port int, owner string, lookup zone.Lookup, log *slog.Logger) (*Server, error) {
	var config net.ListenConfig
	address := func(port int) string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(port)) }
	listener, err := config.Listen(ctx, "tcp4", address(port))
	if err != nil {
		return nil, fmt.Errorf("cannot listen for DNS: %w", err)
	}
	port = listener.Addr().(*net.TCPAddr).Port
	packets, err := config.ListenPacket(ctx, "udp4", address(port))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("cannot listen for DNS: %w", err), listener.Close())
	}
	handler := bounded(Handler(owner, lookup))
	s := &Server{
		port: port,
		udp:  &dns.Server{PacketConn: packets, Handler: handler, UDPSize: zone.MaxUDP},
		tcp: &dns.Server{
			Listener: newBoundedListener(listener), Handler: handler, MaxTCPQueries: maxAtOnce,
			ReadTimeout: tcpTimeout, WriteTimeout: tcpTimeout, IdleTimeout: func() time.Duration { return tcpTimeout },
		},
	}
	for _, server := range []*dns.Server{s.udp, s.tcp} {
		started := make(chan struct{})
		server.NotifyStartedFunc = func() { close(started) }
		failed := make(chan error, 1)
		go func() {
			err := server.ActivateAndServe()
			if err != nil {
				log.ErrorContext(ctx, "the DNS server ended", "error", err)
			}
			failed <- err
		}()
		select {
		case <-started:
		case err := <-failed:
			return nil, errors.Join(fmt.Errorf("cannot answer DNS questions: %w", err), packets.Close(), listener.Close())
		}
	}
	return s, nil
}

// Port is the port that the server has.
func (s *Server) Port() int { return s.port }

// Close ends the server.
func (s *Server) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	return errors.Join(s.udp.ShutdownContext(ctx), s.tcp.ShutdownContext(ctx))
}

// Handler answers single questions.
func Handler(owner string, lookup zone.Lookup) dns.Handler {
	return dns.HandlerFunc(func(w dns.ResponseWriter, question *dns.Msg) {
		message, err := question.Pack()
		if err == nil {
			message, err = zone.Answer(message, owner, lookup)
		}
		// Who asked and is gone does not care.
		if err != nil {
			dns.HandleFailed(w, question)
			return
		}
		_, _ = w.Write(message)
	})
}

// bounded drops what comes while too much is being answered; who asked asks
// again.
func bounded(next dns.Handler) dns.Handler {
	slots := make(chan struct{}, maxAtOnce)
	return dns.HandlerFunc(func(w dns.ResponseWriter, question *dns.Msg) {
		select {
		case slots <- struct{}{}:
			defer func() { <-slots }()
			next.ServeDNS(w, question)
		default:
		}
	})
}
