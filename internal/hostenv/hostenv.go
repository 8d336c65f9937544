// Package hostenv finds what of the host's network is not plain, and what a
// guest needs of it: proxies, and CA certificates that are trusted beyond the
// distribution's own.
//
// Proxies are told by the environment of the command that starts a VM, which
// bangerd's is not: [Select] picks the variables there, [Collect] makes what
// the guest gets out of them. URLs of proxies may have passwords in them: they
// are shown by [Proxy.Shown] only.
package hostenv

import (
	"context"
	"net/netip"
	"path/filepath"
	"slices"

	"banger/internal/agent/wire"
	"banger/internal/config"
)

// proxyVariables are read in lower case first, then in upper case.
var proxyVariables = []string{"http_proxy", "https_proxy", "ftp_proxy", "all_proxy"}

const noProxyVariable = "no_proxy"

// ProxyVariables returns the names of all variables about proxies that a guest
// may have.
func ProxyVariables() []string {
	var names []string
	for _, lower := range append(slices.Clone(proxyVariables), noProxyVariable) {
		names = append(names, bothCases(lower)...)
	}
	return names
}

// certificateVariables name files of certificates.
var certificateVariables = []string{"SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "PIP_CERT", "GIT_SSL_CAINFO"}

// Select returns the variables that count, with files' names made absolute.
func Select(getenv func(string) string) map[string]string {
	selected := map[string]string{}
	for _, name := range ProxyVariables() {
		if value := getenv(name); value != "" {
			selected[name] = value
		}
	}
	for _, name := range certificateVariables {
		if value := getenv(name); value != "" {
			if absolute, err := filepath.Abs(value); err == nil {
				selected[name] = absolute
			}
		}
	}
	return selected
}

// Relay is a connection that is open to a guest beyond the network policy: TCP
// to From is carried to To, and nothing else is.
type Relay struct {
	From netip.AddrPort `json:"from"`
	To   netip.AddrPort `json:"to"`
}

// Proxy is one of the host's proxies, for people.
type Proxy struct {
	// Variable is the lower-case one.
	Variable string `json:"variable"`
	// Shown is the URL on the host without user and password.
	Shown string `json:"shown"`
	// Via is where guests find it if that is elsewhere than on the host.
	Via string `json:"via,omitempty"`
}

// Passed is what a guest gets.
type Passed struct {
	// Environment has the variables of proxies. Its values are secret.
	Environment  map[string]string  `json:"environment,omitempty"`
	Certificates []wire.Certificate `json:"certificates,omitempty"`
	// Relays are what the network has to leave open for it.
	Relays  []Relay `json:"relays,omitempty"`
	Proxies []Proxy `json:"proxies,omitempty"`
	// Warnings say what could not be passed.
	Warnings []string `json:"warnings,omitempty"`
}

// Options of [Collect].
type Options struct {
	Settings config.HostEnvironment
	// Gateway is the host's address as guests see it.
	Gateway netip.Addr
	// Resolve looks a proxy's name up.
	Resolve func(ctx context.Context, host string) ([]netip.Addr, error)
	// Root is where the host's certificates are looked for, "/" but in tests.
	Root string
	// Files, if it is not nil, is asked in place of files that it knows.
	Files *Files
}

// Collect works out what guests get of an environment that [Select] returned,
// and of what the host trusts. It does not fail: what cannot be passed is a
// warning.
func Collect(ctx context.Context, options Options, environment map[string]string) Passed {
	var passed Passed
	if options.Settings.Proxy {
		passed.proxies(ctx, options, environment)
	}
	passed.certificates(options, environment)
	return passed
}
