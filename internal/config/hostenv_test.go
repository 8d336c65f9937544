package config

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestHostEnvironment(t *testing.T) {
	t.Parallel()
	dirs := testDirs(t)
	for text, want := range map[string]HostEnvironment{
		"":                                      {Proxy: true, Certificates: true},
		"proxy = \"none\"":                      {Certificates: true},
		"certificates = \"none\"":               {Proxy: true},
		"certificates = \"inherit\"":            {Proxy: true, Certificates: true},
		"certificates = [\"~/ca.pem\", \"/b\"]": {Proxy: true, CertificateFiles: []string{filepath.Join(dirs.Home, "ca.pem"), "/b"}},
	} {
		got, err := parse([]byte("[host_environment]\n"+text), "config.toml", dirs)
		if err != nil {
			t.Errorf("%q: %v", text, err)
		}
		if diff := cmp.Diff(want, got.HostEnvironment); diff != "" {
			t.Errorf("%q:\n%s", text, diff)
		}
	}
	for text, want := range map[string]string{
		"proxy = \"yes\"":          `config.toml:2: host_environment.proxy: it must be "inherit" or "none", not "yes"`,
		"certificates = 1":         `config.toml:2: host_environment.certificates: it must be "inherit" or "none", or a list of files`,
		"certificates = [1]":       "config.toml:2: host_environment.certificates: its entries must be names of files",
		"certificates = [\"a/b\"]": "is not an absolute path",
	} {
		if _, err := parse([]byte("[host_environment]\n"+text), "config.toml", dirs); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: got %v, want %q", text, err, want)
		}
	}
}
