// Package zone says what the zone of VMs' names holds. Guests' networks answer
// out of it as bangerd does, and start with each VM: it imports little.
package zone

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"golang.org/x/net/dns/dnsmessage"
)

const (
	// Name is the zone's: it has all names.
	Name = "vm."
	// Probe is a name whose TXT record says whose banger answered: that is how
	// to find out whether the host's resolver asks this server.
	Probe = "_banger." + Name
	// MaxUDP is the largest answer that is sent in a datagram; all are small.
	MaxUDP = 1232

	// negative is how long resolvers may remember that a name is not there,
	// in seconds, and positive that it is. A VM may start or stop any moment.
	negative, positive = 0, 0
)

// Lookup returns the address of the running VM of that name.
type Lookup func(name string) (netip.Addr, bool)

// Answer makes the answer to a question, and fails for what is none.
func Answer(message []byte, owner string, lookup Lookup) ([]byte, error) {
	var parser dnsmessage.Parser
	asked, err := parser.Start(message)
	if err != nil {
		return nil, fmt.Errorf("cannot read a question: %w", err)
	}
	answer := dnsmessage.Message{Header: dnsmessage.Header{
		ID: asked.ID, Response: true, OpCode: asked.OpCode, RecursionDesired: asked.RecursionDesired, CheckingDisabled: asked.CheckingDisabled,
	}}
	if asked.OpCode != 0 {
		answer.RCode = dnsmessage.RCodeNotImplemented
		return answer.Pack()
	}
	question, err := parser.Question()
	if err != nil && !errors.Is(err, dnsmessage.ErrSectionDone) {
		return nil, fmt.Errorf("cannot read a question: %w", err)
	}
	// Others are not read: each would take 50 times the memory it has in a message.
	if err != nil || !errors.Is(parser.SkipQuestion(), dnsmessage.ErrSectionDone) {
		answer.RCode = dnsmessage.RCodeFormatError
		return answer.Pack()
	}
	answer.Questions = []dnsmessage.Question{question}
	version, extended, err := edns(&parser)
	if err != nil {
		return nil, fmt.Errorf("cannot read a question: %w", err)
	}
	const badVersion dnsmessage.RCode = 16 // of which the lowest four bits, zeros, are in the header
	code := badVersion
	if version == 0 {
		resolve(&answer, owner, lookup)
		code = answer.RCode
	}
	if extended {
		var header dnsmessage.ResourceHeader
		if err := header.SetEDNS0(MaxUDP, code, false); err != nil {
			return nil, err
		}
		answer.Additionals = []dnsmessage.Resource{{Header: header, Body: &dnsmessage.OPTResource{}}}
	}
	return answer.Pack()
}

// edns returns the version of the extension mechanism that a question is asked
// with, if it is.
func edns(parser *dnsmessage.Parser) (version uint8, extended bool, err error) {
	if err := errors.Join(parser.SkipAllAnswers(), parser.SkipAllAuthorities()); err != nil {
		return 0, false, err
	}
	for {
		header, err := parser.AdditionalHeader()
		if errors.Is(err, dnsmessage.ErrSectionDone) {
			return version, extended, nil
		}
		if err != nil {
			return 0, false, err
		}
		if header.Type == dnsmessage.TypeOPT {
			version, extended = uint8(header.TTL>>16), true
		}
		if err := parser.SkipAdditional(); err != nil {
			return 0, false, err
		}
	}
}

// resolve puts what there is of a name into the answer.
func resolve(answer *dnsmessage.Message, owner string, lookup Lookup) {
	question := answer.Questions[0]
	name := strings.ToLower(question.Name.String())
	class := question.Class
	if class != dnsmessage.ClassINET && class != dnsmessage.ClassANY || name != Name && !strings.HasSuffix(name, "."+Name) {
		answer.RCode = dnsmessage.RCodeRefused
		return
	}
	answer.Authoritative = true
	add := func(kind dnsmessage.Type, body dnsmessage.ResourceBody) {
		if question.Type == kind || question.Type == dnsmessage.TypeALL {
			header := dnsmessage.ResourceHeader{Name: question.Name, Class: dnsmessage.ClassINET, TTL: positive}
			answer.Answers = append(answer.Answers, dnsmessage.Resource{Header: header, Body: body})
		}
	}
	switch name {
	case Name:
		add(dnsmessage.TypeSOA, soa())
		add(dnsmessage.TypeNS, &dnsmessage.NSResource{NS: dnsmessage.MustNewName(server)})
	case Probe:
		add(dnsmessage.TypeTXT, &dnsmessage.TXTResource{TXT: []string{owner}})
	default:
		address, ok := lookup(strings.TrimSuffix(name, "."+Name))
		if ok && address.Is4() {
			add(dnsmessage.TypeA, &dnsmessage.AResource{A: address.As4()})
		} else {
			answer.RCode = dnsmessage.RCodeNameError
		}
	}
	if len(answer.Answers) == 0 {
		header := dnsmessage.ResourceHeader{Name: dnsmessage.MustNewName(Name), Class: dnsmessage.ClassINET, TTL: negative}
		answer.Authorities = []dnsmessage.Resource{{Header: header, Body: soa()}}
	}
}

const server = "localhost."

func soa() *dnsmessage.SOAResource {
	return &dnsmessage.SOAResource{
		NS: dnsmessage.MustNewName(server), MBox: dnsmessage.MustNewName("nobody.invalid."),
		Serial: 1, Refresh: 3600, Retry: 600, Expire: 86400, MinTTL: negative,
	}
}
