package vm

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"testing"

	"banger/internal/api"
	"banger/internal/hostenv"
	"banger/internal/progress"
	"banger/internal/vmm"
)

// TestInherit: what the caller's environment comes to is open in the network
// and told to the guest, at each start anew.
func TestInherit(t *testing.T) {
	t.Parallel()
	relay := hostenv.Relay{From: netip.MustParseAddrPort("172.16.0.1:1"), To: netip.MustParseAddrPort("127.0.0.1:1")}
	var linked []hostenv.Relay
	h := newHarness(t, func(c *Config) {
		connect := c.Networks[0].Connect
		c.Networks[0].Connect = func(ctx context.Context, link Link) (vmm.NIC, func() error, error) {
			linked = link.Relays
			return connect(ctx, link)
		}
		c.HostEnvironment = func(_ context.Context, env map[string]string) (hostenv.Passed, error) {
			if env["http_proxy"] == "" {
				return hostenv.Passed{}, nil
			}
			return hostenv.Passed{Environment: env, Relays: []hostenv.Relay{relay}, Warnings: []string{"mind the gap"}}, nil
		}
	})
	var warned bool
	report := func(e progress.Event) { warned = warned || (e.Warning && e.Text == "mind the gap") }
	vm, err := h.Create(t.Context(), api.CreateVM{Name: "one", Start: true, Environment: map[string]string{"http_proxy": "s3cret"}}, report)
	if err != nil {
		t.Fatal(err)
	}
	e, err := h.resolve("one")
	if err != nil {
		t.Fatal(err)
	}
	// What another bangerd would tell the guest.
	told, err := h.configuration(e)
	if err != nil || told.Environment["http_proxy"] != "s3cret" || len(linked) != 1 || !warned {
		t.Errorf("told %v, linked %v, warned %v, %v", told.Environment, linked, warned, err)
	}
	info, err := os.Stat(inheritedFile(h.dirs.Run(vm.ID)))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the file is %v, %v", info, err)
	}
	if _, err := h.Kill(t.Context(), "one"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(inheritedFile(h.dirs.Run(vm.ID))); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a secret stays: %v", err)
	}
	if _, err := h.Start(t.Context(), "one", progress.Discard); err != nil {
		t.Fatal(err)
	}
	if told, err = h.configuration(e); err != nil || len(told.Environment) != 0 || linked != nil {
		t.Errorf("told %v, linked %v, %v", told.Environment, linked, err)
	}
}
