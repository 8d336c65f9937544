package zone

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

var box = netip.AddrFrom4([4]byte{127, 1, 1, 2})

func lookup(name string) (netip.Addr, bool) { return box, name == "box" }

func TestAnswer(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name  string
		qtype uint16
		class uint16
		code  int
		want  string // the answer's data
		soa   bool
	}{
		{name: "box.vm.", qtype: dns.TypeA, want: "127.1.1.2"},
		{name: "BoX.vM.", qtype: dns.TypeA, want: "127.1.1.2"},
		{name: "box.vm.", qtype: dns.TypeANY, want: "127.1.1.2"},
		{name: "box.vm.", qtype: dns.TypeAAAA, soa: true},
		{name: "other.vm.", qtype: dns.TypeA, code: dns.RcodeNameError, soa: true},
		{name: "sub.box.vm.", qtype: dns.TypeA, code: dns.RcodeNameError, soa: true},
		{name: "vm.", qtype: dns.TypeA, soa: true},
		{name: "vm.", qtype: dns.TypeSOA, want: "localhost. nobody.invalid. 1 3600 600 86400 0"},
		{name: "vm.", qtype: dns.TypeNS, want: "localhost."},
		{name: Probe, qtype: dns.TypeTXT, want: `"me"`},
		{name: Probe, qtype: dns.TypeA, soa: true},
		{name: "example.com.", qtype: dns.TypeA, code: dns.RcodeRefused},
		{name: "box.evm.", qtype: dns.TypeA, code: dns.RcodeRefused},
		{name: ".", qtype: dns.TypeNS, code: dns.RcodeRefused},
		{name: "box.vm.", qtype: dns.TypeA, class: dns.ClassCHAOS, code: dns.RcodeRefused},
	} {
		question := new(dns.Msg).SetQuestion(test.name, test.qtype)
		if test.class != 0 {
			question.Question[0].Qclass = test.class
		}
		packed, err := question.Pack()
		if err != nil {
			t.Fatal(err)
		}
		if packed, err = Answer(packed, "me", lookup); err != nil {
			t.Fatal(err)
		}
		answer := new(dns.Msg)
		if err := answer.Unpack(packed); err != nil {
			t.Fatal(err)
		}
		var all []string
		for _, record := range answer.Answer {
			all = append(all, strings.TrimPrefix(record.String(), record.Header().String()))
		}
		data := strings.Join(all, " ")
		soa := len(answer.Ns) == 1 && answer.Ns[0].Header().Rrtype == dns.TypeSOA
		if answer.Rcode != test.code || data != test.want || soa != test.soa || answer.Id != question.Id || !answer.Response {
			t.Errorf("%s %s: got\n%v", test.name, dns.TypeToString[test.qtype], answer)
		}
	}
}

// TestAnswerOdd has questions that are none, or of another time.
func TestAnswerOdd(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name   string
		change func(*dns.Msg)
		code   int
		edns   bool
	}{
		{"extended", func(m *dns.Msg) { m.SetEdns0(4096, true) }, dns.RcodeSuccess, true},
		{"extended later", func(m *dns.Msg) { m.SetEdns0(4096, false).IsEdns0().SetVersion(1) }, dns.RcodeBadVers, true},
		{"an update", func(m *dns.Msg) { m.Opcode = dns.OpcodeUpdate }, dns.RcodeNotImplemented, false},
		{"nothing", func(m *dns.Msg) { m.Question = nil }, dns.RcodeFormatError, false},
		{"two", func(m *dns.Msg) { m.Question = append(m.Question, m.Question[0]) }, dns.RcodeFormatError, false},
	} {
		question := new(dns.Msg).SetQuestion("box.vm.", dns.TypeA)
		test.change(question)
		packed, err := question.Pack()
		if err != nil {
			t.Fatal(err)
		}
		if packed, err = Answer(packed, "me", lookup); err != nil {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		var answer dns.Msg
		if err := answer.Unpack(packed); err != nil {
			t.Errorf("%s: %v", test.name, err)
		}
		if extended := answer.IsEdns0() != nil; answer.Rcode != test.code || extended != test.edns || answer.Id != question.Id || !answer.Response {
			t.Errorf("%s: got\n%v", test.name, &answer)
		}
	}
	if answer, err := Answer([]byte("nonsense"), "me", lookup); err == nil {
		t.Errorf("nonsense is answered with %x", answer)
	}
}

// TestAnswerMany has as many questions in one message as there is room for.
func TestAnswerMany(t *testing.T) {
	allocations := func(count int) float64 {
		question := new(dns.Msg).SetQuestion("box.vm.", dns.TypeA)
		for range count - 1 {
			question.Question = append(question.Question, dns.Question{Name: ".", Qtype: dns.TypeA, Qclass: dns.ClassINET})
		}
		packed, err := question.Pack()
		if err != nil {
			t.Fatal(err)
		}
		return testing.AllocsPerRun(10, func() {
			if _, err := Answer(packed, "me", lookup); err != nil {
				t.Fatal(err)
			}
		})
	}
	if few, many := allocations(2), allocations(10000); many > few {
		t.Errorf("%v allocations for 2 questions, %v for 10000", few, many)
	}
}

func FuzzAnswer(f *testing.F) {
	packed, err := new(dns.Msg).SetQuestion("box.vm.", dns.TypeA).SetEdns0(4096, true).Pack()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(packed)
	f.Add([]byte("\x00\x01\x01\x00\x00\x02\x00\x00\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, data []byte) {
		packed, err := Answer(data, "me", lookup)
		if err != nil {
			return
		}
		var answer dns.Msg
		if err := answer.Unpack(packed); err != nil {
			t.Errorf("%x is answered with %x: %v", data, packed, err)
		}
		if len(packed) > MaxUDP || len(answer.Answer) > 2 {
			t.Errorf("an answer of %d bytes to one of %d", len(packed), len(data))
		}
	})
}
