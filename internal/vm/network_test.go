package vm

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"banger/internal/api"
	"banger/internal/config"
	"banger/internal/hostenv"
	"banger/internal/network/bridge"
	"banger/internal/network/plan"
	"banger/internal/progress"
	"banger/internal/vmm"
)

// twoNetworks are the bridge, as ready says, and the one of the user mode.
func twoNetworks(c *Config, setting string, ready func(netip.Addr) error) {
	user := c.Networks[0]
	onBridge := Network{
		Mode: vmm.NetworkTAP, DNS: plan.Gateway.String(), MTU: 1234, Ready: ready,
		Connect: func(_ context.Context, link Link) (vmm.NIC, func() error, error) {
			return vmm.NIC{Mode: vmm.NetworkTAP, MAC: link.MAC, TAP: "tap"}, func() error { return nil }, nil
		},
	}
	c.Networks = []Network{onBridge, user}
	load := c.Load
	c.Load = func() (config.Config, error) {
		settings, err := load()
		settings.NetworkMode = setting
		return settings, err
	}
}

func TestNetworks(t *testing.T) {
	t.Parallel()
	unfit := &api.Error{Kind: api.KindState, Message: "it does not fit"}
	const tap, user = vmm.NetworkTAP, vmm.NetworkUser
	for _, test := range []struct {
		setting string
		ready   error
		want    []vmm.NetworkMode
		warns   bool
		fails   error
	}{
		{setting: "auto", want: []vmm.NetworkMode{tap, user}},
		{setting: "auto", ready: bridge.ErrNotSetUp, want: []vmm.NetworkMode{user}},
		{setting: "auto", ready: unfit, want: []vmm.NetworkMode{user}, warns: true},
		{setting: "user", want: []vmm.NetworkMode{user}},
		{setting: "bridge", want: []vmm.NetworkMode{tap}},
		{setting: "bridge", ready: unfit, fails: unfit},
		{setting: "bridge", ready: bridge.ErrNotSetUp, fails: bridge.ErrNotSetUp},
	} {
		h := newHarness(t, func(c *Config) { twoNetworks(c, test.setting, func(netip.Addr) error { return test.ready }) })
		warned := ""
		networks, err := h.networks(netip.Addr{}, func(text string) { warned = text })
		var got []vmm.NetworkMode
		for _, network := range networks {
			got = append(got, network.Mode)
		}
		if diff := cmp.Diff(test.want, got); diff != "" || !errors.Is(err, test.fails) || (warned != "") != test.warns {
			t.Errorf("%+v: %v, %v, warned %q", test, got, err, warned)
		}
	}
}

func TestOnBridge(t *testing.T) {
	t.Parallel()
	var asked []netip.Addr
	h := newHarness(t, func(c *Config) {
		twoNetworks(c, "auto", func(addr netip.Addr) error { asked = append(asked, addr); return nil })
	})
	vm, err := h.Create(t.Context(), api.CreateVM{Name: "box", Start: true}, progress.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if vm.VMM.Network != vmm.NetworkTAP || vm.OnHost != vm.Address || asked[len(asked)-1].String() != vm.Address {
		t.Errorf("got %+v, asked for %v", vm, asked)
	}
	same := func(when string) {
		t.Helper()
		address, ok := h.Lookup("box")
		inGuests, okInGuests := h.LookupGuest("box")
		if !ok || !okInGuests || address.String() != vm.Address || inGuests != address {
			t.Errorf("%s the name means %v, in guests %v", when, address, inGuests)
		}
	}
	same("at first")
	if got := h.networkOf(h.look(h.entries()[0]).record.Handle).MTU; got != 1234 {
		t.Errorf("its MTU is %d", got)
	}
	h.crash(t)
	same("after a crash of bangerd")
	if _, err := h.Kill(t.Context(), "box"); err != nil {
		t.Fatal(err)
	}
	if address, ok := h.Lookup("box"); ok {
		t.Errorf("one that does not run is %v", address)
	}
}

// TestCut: only a deletion does not wait for the end of the VMM, and none where the
// next VM may get the same TAP.
func TestCut(t *testing.T) {
	t.Parallel()
	for setting, want := range map[string][]bool{"user": {false, true}, "bridge": {false, false}} {
		h := newHarness(t, func(c *Config) { twoNetworks(c, setting, func(netip.Addr) error { return nil }) })
		vm := h.create(t, api.CreateVM{Name: "box", Start: true})
		if _, err := h.Kill(t.Context(), vm.ID); err != nil {
			t.Fatal(err)
		}
		if _, err := h.Start(t.Context(), vm.ID, progress.Discard); err != nil {
			t.Fatal(err)
		}
		if err := h.Delete(t.Context(), vm.ID, api.DeleteVM{Force: true}); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, h.fake.Cuts(vm.ID)); diff != "" {
			t.Errorf("network mode %q: %s", setting, diff)
		}
	}
}

func TestUserModeIsNotForGuests(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	vm, err := h.Create(t.Context(), api.CreateVM{Name: "box", Start: true}, progress.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if address, ok := h.Lookup("box"); !ok || address.String() != vm.Loopback || vm.OnHost != vm.Loopback || !strings.HasPrefix(vm.Loopback, "127.") {
		t.Errorf("the name means %v: %+v", address, vm)
	}
	if address, ok := h.LookupGuest("box"); ok {
		t.Errorf("in guests the name means %v", address)
	}
}

// TestRelaysAreNotOnTheBridge: a VM that needs what only the user mode has gets
// that, unless the configuration insists on the bridge.
func TestRelaysAreNotOnTheBridge(t *testing.T) {
	t.Parallel()
	for setting, want := range map[string]vmm.NetworkMode{"auto": vmm.NetworkUser, "bridge": vmm.NetworkTAP} {
		h := newHarness(t, func(c *Config) {
			twoNetworks(c, setting, func(netip.Addr) error { return nil })
			c.HostEnvironment = func(context.Context, map[string]string) (hostenv.Passed, error) {
				return hostenv.Passed{Relays: []hostenv.Relay{{}}}, nil
			}
		})
		var warned []string
		report := func(e progress.Event) {
			if e.Warning {
				warned = append(warned, e.Text)
			}
		}
		vm, err := h.Create(t.Context(), api.CreateVM{Name: "box", Start: true}, report)
		if err != nil {
			t.Fatal(err)
		}
		if vm.VMM.Network != want || len(warned) != 1 || !strings.Contains(warned[0], "proxies") {
			t.Errorf("%s: it is on %q, warned %q", setting, vm.VMM.Network, warned)
		}
	}
}
