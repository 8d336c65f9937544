package hostenv

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// resolveTimeout bounds the question for a proxy's name.
const resolveTimeout = 3 * time.Second

// defaultPorts of the kinds of proxies there are.
var defaultPorts = map[string]uint16{"http": 80, "https": 443, "socks4": 1080, "socks4a": 1080, "socks5": 1080, "socks5h": 1080}

// notProxied are always reached directly by a guest.
var notProxied = []string{"localhost", "127.0.0.1", "::1", ".vm"}

func bothCases(lower string) []string { return []string{lower, strings.ToUpper(lower)} }

// lookup reads a variable in lower case, else in upper case.
func lookup(environment map[string]string, lower string) string {
	for _, name := range bothCases(lower) {
		if value := environment[name]; value != "" {
			return value
		}
	}
	return ""
}

func (p *Passed) set(lower, value string) {
	if p.Environment == nil {
		p.Environment = map[string]string{}
	}
	for _, name := range bothCases(lower) {
		p.Environment[name] = value
	}
}

func (p *Passed) warn(format string, args ...any) {
	p.Warnings = append(p.Warnings, fmt.Sprintf(format, args...))
}

func (p *Passed) proxies(ctx context.Context, options Options, environment map[string]string) {
	for _, variable := range proxyVariables {
		value := lookup(environment, variable)
		if value == "" {
			continue
		}
		proxy, err := parseProxy(value)
		if err != nil {
			p.warn("guests do not get %s: %v", variable, err)
			continue
		}
		shown := Proxy{Variable: variable, Shown: masked(proxy)}
		via, err := p.open(ctx, options, proxy)
		if err != nil {
			p.warn("guests may not reach the proxy %s of %s: %v", shown.Shown, variable, err)
		}
		if via.IsValid() {
			proxy.Host, shown.Via = via.String(), via.String()
		}
		p.Proxies = append(p.Proxies, shown)
		p.set(variable, proxy.String())
	}
	if len(p.Proxies) == 0 {
		return
	}
	list := strings.FieldsFunc(lookup(environment, noProxyVariable), func(r rune) bool { return r == ',' || r == ' ' })
	if slices.ContainsFunc(list, func(s string) bool { return strings.ContainsFunc(s, unprintable) }) {
		p.warn("guests do not get %s: it has unprintable characters", noProxyVariable)
		list = nil
	}
	for _, name := range notProxied {
		if !slices.Contains(list, name) {
			list = append(list, name)
		}
	}
	p.set(noProxyVariable, strings.Join(list, ","))
}

func unprintable(r rune) bool { return r < ' ' || r == 0x7f }

// parseProxy reads what curl and others take for a proxy: a URL, or only host
// and port. Its errors do not have the value in them.
func parseProxy(value string) (*url.URL, error) {
	if strings.ContainsFunc(value, unprintable) {
		return nil, errors.New("it has unprintable characters")
	}
	if !strings.Contains(value, "://") {
		value = "http://" + value
	}
	parsed, err := url.Parse(value)
	if err != nil || parsed.Hostname() == "" {
		return nil, errors.New("it is no URL of a proxy")
	}
	if _, known := defaultPorts[parsed.Scheme]; !known {
		return nil, fmt.Errorf("%q is no kind of proxy", parsed.Scheme)
	}
	if port := parsed.Port(); port != "" {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return nil, fmt.Errorf("%q is no port", port)
		}
	}
	return parsed, nil
}

func portOf(proxy *url.URL) uint16 {
	if port, err := strconv.ParseUint(proxy.Port(), 10, 16); err == nil {
		return uint16(port)
	}
	return defaultPorts[proxy.Scheme]
}

// masked is a proxy's URL without what logs in to it.
func masked(proxy *url.URL) string {
	shown := url.URL{Scheme: proxy.Scheme, Host: proxy.Host}
	if proxy.User != nil {
		return shown.Scheme + "://***@" + shown.Host
	}
	return shown.String()
}

// open lets guests reach a proxy wherever it is: on this host, or in a network
// that is closed to them otherwise. It returns where guests find it, if that is
// not where the host does.
func (p *Passed) open(ctx context.Context, options Options, proxy *url.URL) (via netip.AddrPort, err error) {
	port := portOf(proxy)
	addrs, err := resolve(ctx, options, proxy.Hostname())
	if err != nil {
		return netip.AddrPort{}, err
	}
	for _, addr := range addrs {
		if addr.Is4() && addr.IsGlobalUnicast() {
			at := netip.AddrPortFrom(addr, port)
			p.relay(Relay{From: at, To: at})
		}
	}
	if slices.ContainsFunc(addrs, func(a netip.Addr) bool { return a.Is4() && a.IsGlobalUnicast() }) {
		return netip.AddrPort{}, nil
	}
	// On the host's loopback, or only by IPv6, which guests do not have.
	target := netip.AddrPortFrom(addrs[0], port)
	if addrs[0].IsUnspecified() {
		target = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port)
	}
	from := netip.AddrPortFrom(options.Gateway, port)
	for !p.free(from, target) {
		from = netip.AddrPortFrom(options.Gateway, from.Port()%65535+1)
	}
	p.relay(Relay{From: from, To: target})
	return from, nil
}

// dnsPort of the gateway is taken.
const dnsPort = 53

// free says whether from leads to target, or to nothing yet.
func (p *Passed) free(from, target netip.AddrPort) bool {
	if from.Port() == dnsPort {
		return false
	}
	return !slices.ContainsFunc(p.Relays, func(r Relay) bool { return r.From == from && r.To != target })
}

func (p *Passed) relay(relay Relay) {
	if !slices.Contains(p.Relays, relay) {
		p.Relays = append(p.Relays, relay)
	}
}

// resolve returns one address or more, without zones.
func resolve(ctx context.Context, options Options, host string) ([]netip.Addr, error) {
	if addr, err := netip.ParseAddr(host); err == nil {
		return []netip.Addr{addr.Unmap().WithZone("")}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
	defer cancel()
	found, err := options.Resolve(ctx, host)
	if err != nil {
		return nil, err
	}
	var addrs []netip.Addr
	for _, addr := range found {
		addrs = append(addrs, addr.Unmap().WithZone(""))
	}
	if len(addrs) == 0 {
		return nil, errors.New("its name has no address")
	}
	return addrs, nil
}
