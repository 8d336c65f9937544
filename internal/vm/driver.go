package vm

import (
	"context"
	"fmt"
	"strings"

	"banger/internal/api"
	"banger/internal/store"
	"banger/internal/vmm"
)

// auto leaves the choice of a driver to what the host can do.
const auto = "auto"

// checkVMM refuses the name of a driver that there is not.
func (m *Manager) checkVMM(name string) error {
	if name == "" || name == auto {
		return nil
	}
	names := []string{auto}
	for _, driver := range m.config.Drivers {
		if driver.Name() == name {
			return nil
		}
		names = append(names, driver.Name())
	}
	return &api.Error{Kind: api.KindUsage, Message: fmt.Sprintf("cannot run a VM on %q: it is not one of %s", name, strings.Join(names, ", "))}
}

// choice is a driver, with why it is that one, in a few words.
type choice struct {
	driver vmm.Driver
	reason string
}

// choose returns what runs a VM: the driver that is wished for, or else named
// by the configuration, or the first that works here and can be connected to
// one of the networks.
func (m *Manager) choose(ctx context.Context, wish string, networks []Network) (choice, error) {
	named := "it was chosen for this VM"
	if wish == "" {
		settings, err := m.config.Load()
		if err != nil {
			return choice{}, &api.Error{Kind: api.KindState, Message: err.Error()}
		}
		wish, named = settings.VMM, "the configuration names it"
	}
	automatic := wish == "" || wish == auto
	var reasons []string
	for _, driver := range m.config.Drivers {
		if !automatic && driver.Name() != wish {
			continue
		}
		capability := driver.Probe(ctx)
		if why := unfit(driver, capability, networks, automatic); why != "" {
			reasons = append(reasons, why)
			continue
		}
		switch {
		case !automatic:
			reasons = []string{named}
		case len(reasons) == 0:
			reasons = []string{"it is the first choice, and works here"}
		}
		reason := strings.Join(append(reasons, capability.Reasons...), "; ")
		m.log.DebugContext(ctx, "chose a VMM", "driver", driver.Name(), "wish", wish, "reason", reason)
		return choice{driver: driver, reason: reason}, nil
	}
	if ctx.Err() != nil {
		return choice{}, context.Cause(ctx)
	}
	return choice{}, &api.Error{
		Kind:    api.KindState,
		Message: "cannot run a VM on this host: " + strings.Join(reasons, "; "),
		Hint:    "see what is missing with: banger doctor",
	}
}

// unfit says why a driver cannot run a VM, if so. One without a network of this
// host is not chosen automatically.
func unfit(driver vmm.Driver, capability vmm.Capability, networks []Network, automatic bool) string {
	switch {
	case !capability.Usable:
		return strings.Join(capability.Reasons, "; ")
	case automatic && firstFor(networks, capability) == nil:
		return strings.Join(append([]string{driver.Name() + ": there is no network here that it can use"}, capability.Reasons...), "; ")
	}
	return ""
}

// rechoose records what a VM is to run on.
func (m *Manager) rechoose(op *operation, wish string) error {
	if machine := m.live(op.ctx, op.entry); machine != nil && wish != auto && machine.Handle().Driver != wish {
		name := m.look(op.entry).record.Name
		return &api.Error{
			Kind:    api.KindState,
			Message: fmt.Sprintf("cannot start the VM %q on %s: it runs, on %s", name, wish, machine.Handle().Driver),
			Hint:    "stop it first: banger vm stop " + name,
		}
	}
	return m.change(op.ctx, op.entry, func(r *store.VM) { r.VMM = wish })
}
