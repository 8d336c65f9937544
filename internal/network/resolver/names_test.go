package resolver

import (
	"net/netip"
	"testing"

	miekg "github.com/miekg/dns"
)

func lookup(name string) (netip.Addr, bool) { return netip.MustParseAddr("172.16.0.2"), name == "box" }

func TestOwnNames(t *testing.T) {
	t.Parallel()
	n := &Resolver{Names: lookup}
	for name, want := range map[string]struct {
		code int
		a    string
	}{
		"box.vm.":   {miekg.RcodeSuccess, "172.16.0.2"},
		"BOX.VM.":   {miekg.RcodeSuccess, "172.16.0.2"},
		"other.vm.": {miekg.RcodeNameError, ""},
		"vm.":       {miekg.RcodeSuccess, ""},
	} {
		question, err := new(miekg.Msg).SetQuestion(name, miekg.TypeA).Pack()
		if err != nil {
			t.Fatal(err)
		}
		var answer miekg.Msg
		if err := answer.Unpack(n.own(question)); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		got := ""
		if len(answer.Answer) == 1 {
			got = answer.Answer[0].(*miekg.A).A.String()
		}
		if answer.Rcode != want.code || got != want.a || !answer.RecursionAvailable {
			t.Errorf("%s: got\n%v", name, &answer)
		}
	}
	for _, name := range []string{"example.com.", "box.vm.example.", "boxvm.", "a.\\002vm.", "."} {
		question, err := new(miekg.Msg).SetQuestion(name, miekg.TypeA).Pack()
		if err != nil {
			t.Fatal(err)
		}
		if n.own(question) != nil {
			t.Errorf("%s is taken for a VM's", name)
		}
	}
}

func FuzzOwnNames(f *testing.F) {
	question, err := new(miekg.Msg).SetQuestion("box.vm.", miekg.TypeA).Pack()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(question)
	n := &Resolver{Names: lookup}
	f.Fuzz(func(t *testing.T, message []byte) {
		if isQuestion(message) {
			if answer := n.own(message); answer != nil && !answers(answer, message) {
				t.Errorf("%x answers %x", answer, message)
			}
		}
	})
}
