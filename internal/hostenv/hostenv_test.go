package hostenv

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"math/big"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"banger/internal/config"
)

var gateway = netip.MustParseAddr("172.16.0.1")

func options(t *testing.T) Options {
	t.Helper()
	names := map[string][]string{
		"localhost": {"::1", "127.0.0.1"}, "proxy.corp": {"10.1.2.3", "10.1.2.4", "fd00::1"}, "six.corp": {"fd00::1"},
	}
	return Options{
		Settings: config.HostEnvironment{Proxy: true, Certificates: true}, Gateway: gateway, Root: t.TempDir(),
		Resolve: func(_ context.Context, host string) ([]netip.Addr, error) {
			var addrs []netip.Addr
			for _, addr := range names[host] {
				addrs = append(addrs, netip.MustParseAddr(addr))
			}
			if addrs == nil {
				return nil, errors.New("no such host")
			}
			return addrs, nil
		},
	}
}

func TestSelect(t *testing.T) {
	t.Parallel()
	env := map[string]string{
		"HTTP_PROXY": "a", "https_proxy": "b", "NO_PROXY": "c", "SSL_CERT_FILE": "/x/../ca.pem", "PATH": "/bin", "AWS_SECRET_ACCESS_KEY": "no",
	}
	want := map[string]string{"HTTP_PROXY": "a", "https_proxy": "b", "NO_PROXY": "c", "SSL_CERT_FILE": "/ca.pem"}
	if diff := cmp.Diff(want, Select(func(name string) string { return env[name] })); diff != "" {
		t.Error(diff)
	}
}

func TestProxies(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		env    map[string]string
		want   map[string]string // in lower case
		relays []string
		shown  []string
		warned string
	}{
		"none":          {env: map[string]string{"no_proxy": "x"}},
		"elsewhere":     {map[string]string{"HTTPS_PROXY": "http://8.8.8.8:3128"}, map[string]string{"https_proxy": "http://8.8.8.8:3128"}, []string{"8.8.8.8:3128=8.8.8.8:3128"}, []string{"http://8.8.8.8:3128"}, ""},
		"private":       {map[string]string{"http_proxy": "http://proxy.corp:8080/"}, map[string]string{"http_proxy": "http://proxy.corp:8080/"}, []string{"10.1.2.3:8080=10.1.2.3:8080", "10.1.2.4:8080=10.1.2.4:8080"}, []string{"http://proxy.corp:8080"}, ""},
		"loopback":      {map[string]string{"http_proxy": "http://127.0.0.9:3128"}, map[string]string{"http_proxy": "http://172.16.0.1:3128"}, []string{"172.16.0.1:3128=127.0.0.9:3128"}, []string{"http://127.0.0.9:3128 via 172.16.0.1:3128"}, ""},
		"by name":       {map[string]string{"http_proxy": "localhost:3128"}, map[string]string{"http_proxy": "http://172.16.0.1:3128"}, []string{"172.16.0.1:3128=[::1]:3128"}, []string{"http://localhost:3128 via 172.16.0.1:3128"}, ""},
		"any address":   {map[string]string{"http_proxy": "http://0.0.0.0:3128"}, map[string]string{"http_proxy": "http://172.16.0.1:3128"}, []string{"172.16.0.1:3128=127.0.0.1:3128"}, []string{"http://0.0.0.0:3128 via 172.16.0.1:3128"}, ""},
		"ftp":           {map[string]string{"FTP_PROXY": "http://127.0.0.1:3128"}, map[string]string{"ftp_proxy": "http://172.16.0.1:3128"}, []string{"172.16.0.1:3128=127.0.0.1:3128"}, []string{"http://127.0.0.1:3128 via 172.16.0.1:3128"}, ""},
		"IPv6 only":     {map[string]string{"all_proxy": "socks5h://six.corp"}, map[string]string{"all_proxy": "socks5h://172.16.0.1:1080"}, []string{"172.16.0.1:1080=[fd00::1]:1080"}, []string{"socks5h://six.corp via 172.16.0.1:1080"}, ""},
		"port of DNS":   {map[string]string{"http_proxy": "http://127.0.0.1:53"}, map[string]string{"http_proxy": "http://172.16.0.1:54"}, []string{"172.16.0.1:54=127.0.0.1:53"}, []string{"http://127.0.0.1:53 via 172.16.0.1:54"}, ""},
		"lower first":   {map[string]string{"http_proxy": "http://1.1.1.1:1", "HTTP_PROXY": "http://2.2.2.2:2"}, map[string]string{"http_proxy": "http://1.1.1.1:1"}, []string{"1.1.1.1:1=1.1.1.1:1"}, []string{"http://1.1.1.1:1"}, ""},
		"secret":        {map[string]string{"http_proxy": "http://ann:s3cret%2F@8.8.8.8:1"}, map[string]string{"http_proxy": "http://ann:s3cret%2F@8.8.8.8:1"}, []string{"8.8.8.8:1=8.8.8.8:1"}, []string{"http://***@8.8.8.8:1"}, ""},
		"unknown name":  {map[string]string{"http_proxy": "http://nowhere:1"}, map[string]string{"http_proxy": "http://nowhere:1"}, nil, []string{"http://nowhere:1"}, "guests may not reach the proxy http://nowhere:1 of http_proxy: no such host"},
		"no URL":        {env: map[string]string{"http_proxy": "http://ann:s3cret@ho st:1"}, warned: "guests do not get http_proxy: it is no URL of a proxy"},
		"kind":          {env: map[string]string{"http_proxy": "ftp://s3cret@host"}, warned: `guests do not get http_proxy: "ftp" is no kind of proxy`},
		"a line inside": {env: map[string]string{"http_proxy": "http://s3cret\nhost"}, warned: "guests do not get http_proxy: it has unprintable characters"},
		"port":          {env: map[string]string{"http_proxy": "http://host:99999"}, warned: `guests do not get http_proxy: "99999" is no port`},
	} {
		passed := Collect(t.Context(), options(t), test.env)
		want := map[string]string{}
		for variable, value := range test.want {
			want[variable], want[strings.ToUpper(variable)] = value, value
			want["no_proxy"], want["NO_PROXY"] = "localhost,127.0.0.1,::1,.vm", "localhost,127.0.0.1,::1,.vm"
		}
		if passed.Environment == nil {
			passed.Environment = map[string]string{}
		}
		if diff := cmp.Diff(want, passed.Environment); diff != "" {
			t.Errorf("%s: environment:\n%s", name, diff)
		}
		var relays, shown []string
		for _, r := range passed.Relays {
			relays = append(relays, r.From.String()+"="+r.To.String())
		}
		for _, p := range passed.Proxies {
			if p.Via != "" {
				p.Shown += " via " + p.Via
			}
			shown = append(shown, p.Shown)
		}
		if diff := cmp.Diff(test.relays, relays); diff != "" {
			t.Errorf("%s: relays:\n%s", name, diff)
		}
		if diff := cmp.Diff(test.shown, shown); diff != "" {
			t.Errorf("%s: shown:\n%s", name, diff)
		}
		if got := strings.Join(passed.Warnings, "; "); got != test.warned {
			t.Errorf("%s: warned %q, want %q", name, got, test.warned)
		}
	}
}

func TestProxiesOfOnePort(t *testing.T) {
	t.Parallel()
	passed := Collect(t.Context(), options(t), map[string]string{
		"http_proxy": "http://127.0.0.1:3128", "https_proxy": "http://127.0.0.1:3128", "all_proxy": "socks5://[::1]:3128", "NO_PROXY": "intern, .corp",
	})
	if diff := cmp.Diff([]Relay{
		{netip.MustParseAddrPort("172.16.0.1:3128"), netip.MustParseAddrPort("127.0.0.1:3128")},
		{netip.MustParseAddrPort("172.16.0.1:3129"), netip.MustParseAddrPort("[::1]:3128")},
	}, passed.Relays, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
	if got := passed.Environment["NO_PROXY"]; got != "intern,.corp,localhost,127.0.0.1,::1,.vm" {
		t.Errorf("NO_PROXY is %q", got)
	}
}

func TestNotInherited(t *testing.T) {
	t.Parallel()
	o := options(t)
	writePEM(t, filepath.Join(o.Root, anchors[0], "a.crt"), newCA(t, pkix.Name{CommonName: "a"}))
	o.Settings = config.HostEnvironment{}
	if diff := cmp.Diff(Passed{}, Collect(t.Context(), o, map[string]string{"http_proxy": "http://1.1.1.1:1"})); diff != "" {
		t.Error(diff)
	}
}

func newCA(t *testing.T, name pkix.Name) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: name, NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func writePEM(t *testing.T, path string, certs ...[]byte) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	text := []byte("# a comment\n")
	for _, der := range certs {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
}

func subjects(passed Passed) []string {
	var list []string
	for _, c := range passed.Certificates {
		list = append(list, c.Subject)
	}
	return list
}

func TestCertificates(t *testing.T) {
	t.Parallel()
	ca := func(name string) []byte { return newCA(t, pkix.Name{CommonName: name}) }
	root, corp, byHand, env := ca("root"), ca("corp"), ca("by hand"), ca("env")
	t.Run("Debian", func(t *testing.T) {
		t.Parallel()
		o := options(t)
		writePEM(t, filepath.Join(o.Root, shipped, "root.crt"), root)
		writePEM(t, filepath.Join(o.Root, anchors[0], "sub", "corp.crt"), corp)
		bundle := filepath.Join(o.Root, bundles[0])
		writePEM(t, bundle, root, corp, byHand)
		extra := filepath.Join(o.Root, "extra.pem")
		writePEM(t, extra, root, env)
		passed := Collect(t.Context(), o, map[string]string{"SSL_CERT_FILE": bundle, "NODE_EXTRA_CA_CERTS": extra, "PIP_CERT": filepath.Join(o.Root, "missing")})
		if diff := cmp.Diff([]string{"corp", "by hand", "env"}, subjects(passed)); diff != "" {
			t.Error(diff)
		}
		if len(passed.Warnings) != 1 || !strings.Contains(passed.Warnings[0], "missing") {
			t.Errorf("warnings: %q", passed.Warnings)
		}
	})
	t.Run("without the distribution's list", func(t *testing.T) {
		t.Parallel()
		o := options(t)
		writePEM(t, filepath.Join(o.Root, anchors[1], "corp.pem"), corp)
		writePEM(t, filepath.Join(o.Root, bundles[1]), root, corp)
		extra := filepath.Join(o.Root, "extra.pem")
		writePEM(t, extra, root, env)
		passed := Collect(t.Context(), o, map[string]string{"CURL_CA_BUNDLE": extra})
		if diff := cmp.Diff([]string{"corp", "env"}, subjects(passed)); diff != "" {
			t.Error(diff)
		}
	})
	t.Run("files", func(t *testing.T) {
		t.Parallel()
		o := options(t)
		writePEM(t, filepath.Join(o.Root, anchors[0], "corp.crt"), corp)
		o.Settings.Certificates = false
		der := filepath.Join(o.Root, "env.der")
		if err := os.WriteFile(der, env, 0o600); err != nil {
			t.Fatal(err)
		}
		o.Settings.CertificateFiles = []string{der, o.Root}
		passed := Collect(t.Context(), o, nil)
		if diff := cmp.Diff([]string{"env"}, subjects(passed)); diff != "" {
			t.Error(diff)
		}
		if len(passed.Warnings) != 1 || !strings.Contains(passed.Warnings[0], "is not a regular file") {
			t.Errorf("warnings: %q", passed.Warnings)
		}
	})
	t.Run("broken", func(t *testing.T) {
		t.Parallel()
		o := options(t)
		writePEM(t, filepath.Join(o.Root, anchors[0], "bad.crt"), []byte("no certificate"))
		passed := Collect(t.Context(), o, nil)
		if len(passed.Certificates) != 0 || len(passed.Warnings) != 1 {
			t.Errorf("got %+v", passed)
		}
	})
}

// TestFilesAreReadAgain changes files that are known.
func TestFilesAreReadAgain(t *testing.T) {
	t.Parallel()
	root, corp, late := newCA(t, pkix.Name{CommonName: "root"}), newCA(t, pkix.Name{CommonName: "corp"}), newCA(t, pkix.Name{CommonName: "late"})
	o := options(t)
	o.Files = new(Files)
	bundle, own := filepath.Join(o.Root, bundles[0]), filepath.Join(o.Root, shipped, "root.crt")
	expect := func(want ...string) {
		t.Helper()
		if diff := cmp.Diff(want, subjects(Collect(t.Context(), o, nil))); diff != "" {
			t.Error(diff)
		}
	}
	writePEM(t, own, root)
	writePEM(t, bundle, root, corp)
	expect("corp")
	expect("corp")
	writePEM(t, bundle, root, corp, late)
	expect("corp", "late")
	if err := os.Remove(own); err != nil {
		t.Fatal(err)
	}
	expect() // a bundle of which nothing is known is the distribution's
	writePEM(t, own, root, corp)
	expect("late")
	o.Files.bytes = maxKnown
	writePEM(t, bundle, root, late)
	expect("late")
	if len(o.Files.known) != 1 || o.Files.bytes > maxKnown {
		t.Errorf("%d files are known, of %d bytes", len(o.Files.known), o.Files.bytes)
	}
}

// TestDirectoryIsReadAgain has a directory of the distribution, whose files are
// not looked at while it looks the same.
func TestDirectoryIsReadAgain(t *testing.T) {
	t.Parallel()
	root, corp := newCA(t, pkix.Name{CommonName: "root"}), newCA(t, pkix.Name{CommonName: "corp"})
	o := options(t)
	o.Files = new(Files)
	own := filepath.Join(o.Root, shipped, "root.crt")
	writePEM(t, filepath.Join(o.Root, bundles[0]), root, corp)
	writePEM(t, own, root)
	for _, step := range []struct {
		at   time.Time
		want []string
	}{
		{time.Unix(1e9, 0), []string{"corp"}},
		{time.Unix(1e9, 0), []string{"corp"}},
		{time.Unix(2e9, 0), nil},
	} {
		if err := os.Chtimes(filepath.Dir(own), step.at, step.at); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(step.want, subjects(Collect(t.Context(), o, nil))); diff != "" {
			t.Errorf("%v: %s", step.at, diff)
		}
		writePEM(t, own, root, corp)
	}
}

// TestDirectoryHalfRead has a file that cannot be read at first.
func TestDirectoryHalfRead(t *testing.T) {
	t.Parallel()
	root, corp := newCA(t, pkix.Name{CommonName: "root"}), newCA(t, pkix.Name{CommonName: "corp"})
	o := options(t)
	o.Files = new(Files)
	dir, target := filepath.Join(o.Root, shipped), filepath.Join(o.Root, "corp.crt")
	writePEM(t, filepath.Join(o.Root, bundles[0]), root, corp)
	writePEM(t, filepath.Join(dir, "root.crt"), root)
	if err := errors.Join(os.Symlink(target, filepath.Join(dir, "corp.crt")), os.Chtimes(dir, time.Unix(1e9, 0), time.Unix(1e9, 0))); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		passed := Collect(t.Context(), o, nil)
		if diff := cmp.Diff([]string{"corp"}, subjects(passed)); diff != "" || len(passed.Warnings) != 1 {
			t.Errorf("%s, warnings: %q", diff, passed.Warnings)
		}
	}
	writePEM(t, target, corp)
	if passed := Collect(t.Context(), o, nil); len(passed.Certificates) != 0 || len(passed.Warnings) != 0 {
		t.Errorf("got %+v", passed)
	}
}

// TestSubjectHash compares with OpenSSL.
func TestSubjectHash(t *testing.T) {
	t.Parallel()
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("SKIPPED: there is no openssl here")
	}
	path := filepath.Join(t.TempDir(), "ca.pem")
	bmp := asn1.RawValue{Tag: asn1.TagBMPString, Bytes: []byte{0, 'B', 0, ' ', 0, ' ', 0x20, 0xac}}
	for _, name := range []pkix.Name{
		{},
		{CommonName: "Plain"},
		{CommonName: "  Sp\taced   OUT  ", Country: []string{"DE"}, Organization: []string{"Größe ÄÖ", "two"}},
		{ExtraNames: []pkix.AttributeTypeAndValue{{Type: asn1.ObjectIdentifier{2, 5, 4, 3}, Value: bmp}, {Type: asn1.ObjectIdentifier{0, 9, 2342, 19200300, 100, 1, 25}, Value: asn1.RawValue{Tag: asn1.TagIA5String, Bytes: []byte("Corp")}}}},
	} {
		der := newCA(t, name)
		writePEM(t, path, der)
		out, err := exec.CommandContext(t.Context(), openssl, "x509", "-in", path, "-noout", "-subject_hash").CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		parsed, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := subjectHash(parsed.RawSubject), strings.TrimSpace(string(out)); got != want {
			t.Errorf("%v: got %s, want %s", name, got, want)
		}
	}
}

func FuzzSubjectHash(f *testing.F) {
	f.Add([]byte{0x30, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		if hash := subjectHash(b); hash != "" && len(hash) != 8 {
			t.Errorf("got %q", hash)
		}
	})
}

func FuzzParseProxy(f *testing.F) {
	f.Add("http://ann:s3cret@127.0.0.1:3128")
	f.Fuzz(func(t *testing.T, value string) {
		proxy, err := parseProxy(value)
		if err == nil && strings.ContainsFunc(proxy.String(), unprintable) {
			t.Errorf("%q becomes %q", value, proxy)
		}
	})
}
