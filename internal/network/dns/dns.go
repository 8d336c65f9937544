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
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/miekg/dns"
)

const (
	// Zone has all names.
	Zone = "vm."
	// Probe is a name whose TXT record says whose banger answered: that is how
	// to find out whether the host's resolver asks this server.
	Probe = "_banger." + Zone

	// maxUDP is the largest answer that is sent in a datagram; all are small.
	maxUDP = 1232
	// maxAtOnce bounds the questions and connections being served.
	maxAtOnce  = 128
	tcpTimeout = 5 * time.Second
	// negative is how long resolvers may remember that a name is not there,
	// in seconds, and positive that it is. A VM may start or stop any moment.
	negative, positive = 0, 0
)

// Lookup returns the address of the running VM of that name.
type Lookup func(name string) (netip.Addr, bool)

// Server answers over UDP and TCP.
type Server struct {
	udp, tcp *dns.Server
	port     int
}

// Listen takes port of 127.0.0.1, 0 for any free one, and answers in the
// background until Close. The text owner says whose it is.
func Listen(ctx context.Context, port int, owner string, lookup Lookup, log *slog.Logger) (*Server, error) {
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
		udp:  &dns.Server{PacketConn: packets, Handler: handler, UDPSize: maxUDP},
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
func Handler(owner string, lookup Lookup) dns.Handler {
	return dns.HandlerFunc(func(w dns.ResponseWriter, question *dns.Msg) {
		// Who asked and is gone does not care.
		_ = w.WriteMsg(Answer(question, owner, lookup))
	})
}

// Answer makes the answer to a question.
func Answer(question *dns.Msg, owner string, lookup Lookup) *dns.Msg {
	answer := new(dns.Msg)
	if question.Opcode != dns.OpcodeQuery {
		return answer.SetRcode(question, dns.RcodeNotImplemented)
	}
	if len(question.Question) != 1 {
		return answer.SetRcode(question, dns.RcodeFormatError)
	}
	answer.SetReply(question)
	if opt := question.IsEdns0(); opt != nil {
		answer.SetEdns0(maxUDP, false)
		if opt.Version() != 0 {
			answer.Rcode = dns.RcodeBadVers
			return answer
		}
	}
	q := question.Question[0]
	name := dns.CanonicalName(q.Name)
	if q.Qclass != dns.ClassINET && q.Qclass != dns.ClassANY || !dns.IsSubDomain(Zone, name) {
		answer.Rcode = dns.RcodeRefused
		return answer
	}
	answer.Authoritative = true
	asks := func(t uint16) bool { return q.Qtype == t || q.Qtype == dns.TypeANY }
	header := func(t uint16) dns.RR_Header {
		return dns.RR_Header{Name: q.Name, Rrtype: t, Class: dns.ClassINET, Ttl: positive}
	}
	label := strings.TrimSuffix(name, "."+Zone)
	switch name {
	case Zone:
		if asks(dns.TypeSOA) {
			answer.Answer = append(answer.Answer, soa())
		}
		if asks(dns.TypeNS) {
			answer.Answer = append(answer.Answer, &dns.NS{Hdr: header(dns.TypeNS), Ns: soaServer})
		}
	case Probe:
		if asks(dns.TypeTXT) {
			answer.Answer = append(answer.Answer, &dns.TXT{Hdr: header(dns.TypeTXT), Txt: []string{owner}})
		}
	default:
		address, ok := lookup(label)
		if !ok || !address.Is4() {
			answer.Rcode = dns.RcodeNameError
		} else if asks(dns.TypeA) {
			answer.Answer = append(answer.Answer, &dns.A{Hdr: header(dns.TypeA), A: address.AsSlice()})
		}
	}
	if len(answer.Answer) == 0 {
		answer.Ns = append(answer.Ns, soa())
	}
	return answer
}

const soaServer = "localhost."

func soa() *dns.SOA {
	return &dns.SOA{
		Hdr: dns.RR_Header{Name: Zone, Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: negative},
		Ns:  soaServer, Mbox: "nobody.invalid.", Serial: 1, Refresh: 3600, Retry: 600, Expire: 86400, Minttl: negative,
	}
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
