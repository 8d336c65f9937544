package dns

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"

	"github.com/miekg/dns"

	"banger/internal/network/dns/zone"
)

// ErrNotWired says that the host's resolver does not ask banger about NAME.vm.
var ErrNotWired = errors.New("the host's resolver does not know NAME.vm")

// Wired finds out whether the host's resolver, as resolvConf names it, asks a
// banger's server, and whose. Only a resolver on this host can; any other one is
// not asked.
func Wired(ctx context.Context, resolvConf string) (owner string, err error) {
	file, err := os.Open(resolvConf)
	if err != nil {
		return "", err
	}
	defer file.Close()
	server, ok := resolver(file)
	if !ok || !server.IsLoopback() {
		return "", ErrNotWired
	}
	return Ask(ctx, net.JoinHostPort(server.String(), "53"))
}

// Ask asks a server whose banger answers, through it, for NAME.vm.
func Ask(ctx context.Context, server string) (owner string, err error) {
	question := new(dns.Msg).SetQuestion(zone.Probe, dns.TypeTXT)
	answer, _, err := new(dns.Client).ExchangeContext(ctx, question, server)
	if err != nil {
		return "", errors.Join(ErrNotWired, err)
	}
	for _, record := range answer.Answer {
		if txt, ok := record.(*dns.TXT); ok && len(txt.Txt) == 1 {
			return txt.Txt[0], nil
		}
	}
	return "", ErrNotWired
}

// Owner is the text that says that a user's banger answers.
func Owner(uid int) string { return "banger of user " + strconv.Itoa(uid) }

// resolver returns the first server of a resolv.conf, which is the one that is
// asked. A file without one means this host.
func resolver(r io.Reader) (netip.Addr, bool) {
	const most = 64 << 10
	lines := bufio.NewScanner(io.LimitReader(r, most))
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) >= 2 && fields[0] == "nameserver" {
			address, err := netip.ParseAddr(fields[1])
			return address, err == nil
		}
	}
	return netip.AddrFrom4([4]byte{127, 0, 0, 1}), lines.Err() == nil
}
