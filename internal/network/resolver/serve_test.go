package resolver

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
)

func TestDNSFollowsResolvConf(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "resolv.conf")
	now := time.Unix(0, 0)
	servers := NewServers(path, slog.New(slog.DiscardHandler))
	servers.now = func() time.Time { return now }
	steps := []struct {
		content string // of the file, "-" without one
		want    string
	}{
		{"-", "127.0.0.1:53"},
		{"# none\nsearch example.org\n", "127.0.0.1:53"},
		{"nameserver 10.0.0.1\nnameserver 2001:db8::1\n", "10.0.0.1:53 [2001:db8::1]:53"},
		{"-", "10.0.0.1:53 [2001:db8::1]:53"}, // kept
		{"nameserver 127.0.0.53 # stub\noptions edns0\n nameserver\tfe80::1%eth0\nnameserver ::ffff:10.0.0.9\nnameserver 10.0.0.3\n", "127.0.0.53:53 [fe80::1%eth0]:53 10.0.0.9:53"},
		{"nameserver example.org\nnameserver\nnameserver 10.0.0.1\nnameserver 10.0.0.1\n", "10.0.0.1:53"},
	}
	for _, step := range steps {
		os.Remove(path)
		if step.content != "-" {
			if err := os.WriteFile(path, []byte(step.content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		now = now.Add(recheck)
		var got []string
		for _, server := range servers.Get() {
			got = append(got, server.String())
		}
		if diff := cmp.Diff(step.want, strings.Join(got, " ")); diff != "" {
			t.Errorf("%q: %s", step.content, diff)
		}
	}
}

func FuzzDNS(f *testing.F) {
	question, err := new(dns.Msg).SetQuestion("example.org.", dns.TypeA).SetEdns0(1232, false).Pack()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(question, question)
	f.Add(question[:12], question[:20])
	f.Fuzz(func(t *testing.T, message, question []byte) {
		if !isQuestion(question) {
			return
		}
		if limit := udpLimit(question); limit < 512 || limit > maxUDPAnswer {
			t.Errorf("limit %d", limit)
		}
		answers(message, question)
		for _, answer := range [][]byte{failure(question), truncated(question)} {
			if !answers(answer, question) || len(answer) > len(question) {
				t.Errorf("%x is no answer to %x", answer, question)
			}
		}
	})
}
