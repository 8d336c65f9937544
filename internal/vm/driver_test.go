package vm

import (
	"context"
	"errors"
	"strings"
	"testing"

	"banger/internal/api"
	"banger/internal/config"
	"banger/internal/progress"
	"banger/internal/vmm"
)

// named is a driver of which only name and probe count.
type named struct {
	vmm.Driver
	name       string
	capability vmm.Capability
}

func (d named) Name() string                         { return d.name }
func (d named) Probe(context.Context) vmm.Capability { return d.capability }

func TestDriver(t *testing.T) {
	t.Parallel()
	const network = vmm.NetworkStream
	able := vmm.Capability{Usable: true, Networks: []vmm.NetworkMode{network}}
	unconnected := vmm.Capability{Usable: true, Networks: []vmm.NetworkMode{vmm.NetworkTAP}}
	unable := vmm.Capability{Reasons: []string{"it is not there"}}
	for _, test := range []struct {
		name               string
		first, second      vmm.Capability
		wish, setting      string
		want, wantErrorHas string
	}{
		{name: "the best", first: able, second: able, setting: auto, want: "first"},
		{name: "one that does not work is passed over", first: unable, second: able, want: "second"},
		{name: "one without a network is passed over", first: unconnected, second: able, want: "second"},
		{name: "named by the configuration", first: able, second: able, setting: "second", want: "second"},
		{name: "the wish comes first", first: able, second: able, wish: "second", setting: "first", want: "second"},
		{name: "a wish for the best", first: able, second: able, wish: auto, setting: "second", want: "first"},
		{name: "a wish for one without a network", first: unconnected, second: able, wish: "first", want: "first"},
		{name: "a wish that cannot be had", first: unable, second: able, wish: "first", wantErrorHas: "it is not there"},
		{name: "none works", first: unable, second: unable, wantErrorHas: "it is not there; it is not there"},
		{name: "none has a network", first: unconnected, second: unable, wantErrorHas: "there is no network here that it can use"},
	} {
		h := newHarness(t, func(c *Config) {
			c.Drivers = []vmm.Driver{named{name: "first", capability: test.first}, named{name: "second", capability: test.second}}
			c.Networks[0].Mode = network
			c.Load = func() (config.Config, error) { return config.Config{VMM: test.setting}, nil }
		})
		chosen, err := h.choose(t.Context(), test.wish, h.config.Networks)
		if test.wantErrorHas != "" {
			if known, ok := errors.AsType[*api.Error](err); !ok || known.Kind != api.KindState || !strings.Contains(known.Message, test.wantErrorHas) {
				t.Errorf("%s: %v", test.name, err)
			}
			continue
		}
		if err != nil || chosen.driver.Name() != test.want {
			t.Errorf("%s: %+v, %v, want %q", test.name, chosen, err, test.want)
		}
	}
}

func TestUnknownVMM(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	_, err := h.Create(t.Context(), api.CreateVM{VMM: "none"}, progress.Discard)
	if known, ok := errors.AsType[*api.Error](err); !ok || known.Kind != api.KindUsage {
		t.Errorf("create: %v", err)
	}
	if _, err := h.StartOn(t.Context(), "x", api.StartVM{VMM: "none"}, progress.Discard); err == nil || !strings.Contains(err.Error(), "not one of auto, fake") {
		t.Errorf("start: %v", err)
	}
}

// What a VM runs on is in its record, over restarts of bangerd too, and why is
// shown while it runs.
func TestChoiceIsKept(t *testing.T) {
	t.Parallel()
	missing := vmm.Capability{Reasons: []string{"it is not there"}}
	h := newHarness(t, func(c *Config) {
		c.Drivers = []vmm.Driver{named{name: "best", capability: missing}, c.Drivers[0]}
	})
	ctx := t.Context()
	vm, err := h.Create(ctx, api.CreateVM{Name: "one", Start: true}, progress.Discard)
	if err != nil {
		t.Fatal(err)
	}
	if vm.VMMChoice != "" || vm.VMM.Driver != "fake" || !strings.Contains(vm.VMMReason, "it is not there") {
		t.Errorf("by itself: %q, %+v, because %q", vm.VMMChoice, vm.VMM, vm.VMMReason)
	}
	_, err = h.StartOn(ctx, "one", api.StartVM{VMM: "best"}, progress.Discard)
	if known, ok := errors.AsType[*api.Error](err); !ok || known.Kind != api.KindState || !strings.Contains(known.Message, "it runs, on fake") {
		t.Errorf("on another VMM while it runs: %v", err)
	}
	if _, err := h.StartOn(ctx, "one", api.StartVM{VMM: auto}, progress.Discard); err != nil {
		t.Errorf("on any VMM while it runs: %v", err)
	}
	if _, err := h.Kill(ctx, "one"); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Set(ctx, "one", api.SetVM{VMM: "best"}); err != nil {
		t.Fatal(err)
	}
	h.crash(t)
	if _, err := h.Start(ctx, "one", progress.Discard); err == nil || !strings.Contains(err.Error(), "it is not there") {
		t.Errorf("on a VMM that is not there: %v", err)
	}
	vm, err = h.StartOn(ctx, "one", api.StartVM{VMM: "fake"}, progress.Discard)
	if err != nil || vm.VMMChoice != "fake" || vm.VMMReason != "it was chosen for this VM" {
		t.Errorf("chosen at the start: %q because %q, %v", vm.VMMChoice, vm.VMMReason, err)
	}
}
