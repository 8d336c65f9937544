package vm

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"banger/internal/api"
	"banger/internal/hostenv"
	"banger/internal/network/plan"
	"banger/internal/progress"
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
// the network.
func (m *Manager) choose(ctx context.Context, wish string) (choice, error) {
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
		if why := m.unfit(driver, capability, automatic); why != "" {
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
func (m *Manager) unfit(driver vmm.Driver, capability vmm.Capability, automatic bool) string {
	switch {
	case !capability.Usable:
		return strings.Join(capability.Reasons, "; ")
	case automatic && !m.connects(capability):
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

// connects says whether a driver takes the network that there is.
func (m *Manager) connects(capability vmm.Capability) bool {
	return slices.Contains(capability.Networks, m.config.Network.Mode)
}

// connect gives a VM its interface, and returns what takes that back. A driver
// that was asked for by name and takes no network of this host goes without.
func (m *Manager) connect(ctx context.Context, driver vmm.Driver, record store.VM, spec *vmm.Spec, relays []hostenv.Relay, report progress.Func) (func() error, error) {
	if !m.connects(driver.Probe(ctx)) {
		report.Warn(fmt.Sprintf("%s has no network: there is none here that %s can use", record.Name, driver.Name()))
		return func() error { return nil }, nil
	}
	nic, disconnect, err := m.config.Network.Connect(ctx, Link{
		Name: record.Name, MAC: record.MAC, Address: inPlan(record.Address), Gateway: plan.Gateway.String(), RunDir: spec.RunDir, Log: networkLog(m.config.Dirs.VM(record.ID)),
		Relays: relays,
	})
	if err != nil {
		return nil, err
	}
	spec.NIC = &nic
	return disconnect, nil
}
