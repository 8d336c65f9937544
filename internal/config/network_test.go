package config

import (
	"net/netip"
	"slices"
	"testing"
)

func TestNetworkAccess(t *testing.T) {
	t.Parallel()
	dirs := testDirs(t)
	if got := Defaults(dirs).Network.String(); got != "the internet" {
		t.Errorf("without a file guests reach %q", got)
	}
	write(t, dirs, "[network_access]\nhost = true\nguests = true\nallow = [\"10.1.2.0/24\", \"169.254.169.254\"]\n")
	config, err := Load(dirs)
	if err != nil {
		t.Fatal(err)
	}
	got := config.Network
	want := []netip.Prefix{netip.MustParsePrefix("10.1.2.0/24"), netip.MustParsePrefix("169.254.169.254/32")}
	if !got.Host || !got.Guests || got.LAN || !slices.Equal(got.Allow, want) {
		t.Errorf("got %+v", got)
	}
	if text := got.String(); text != "the internet, 10.1.2.0/24, 169.254.169.254/32, this host, each other on the bridge" {
		t.Errorf("it says %q", text)
	}
}
