package vm

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"banger/internal/api"
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

// driver returns what runs a VM: the one that is wished for, or else named by
// the configuration, or the first that works here and can be connected to the
// network.
func (m *Manager) driver(ctx context.Context, wish string) (vmm.Driver, error) {
	if wish == "" {
		settings, err := m.config.Load()
		if err != nil {
			return nil, &api.Error{Kind: api.KindState, Message: err.Error()}
		}
		wish = settings.VMM
	}
	automatic := wish == "" || wish == auto
	var reasons []string
	for _, driver := range m.config.Drivers {
		if !automatic && driver.Name() != wish {
			continue
		}
		capability := driver.Probe(ctx)
		switch {
		case !capability.Usable:
			reasons = append(reasons, driver.Name()+": "+strings.Join(capability.Reasons, "; "))
		case automatic && !m.connects(capability):
			reasons = append(reasons, driver.Name()+": there is no network here that it can use")
		default:
			m.log.DebugContext(ctx, "chose a VMM", "driver", driver.Name(), "wish", wish, "not", strings.Join(reasons, "; "))
			return driver, nil
		}
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return nil, &api.Error{
		Kind:    api.KindState,
		Message: "cannot run a VM on this host: " + strings.Join(reasons, "; "),
		Hint:    "see what is missing with: banger doctor",
	}
}

// connects says whether a driver takes the network that there is.
func (m *Manager) connects(capability vmm.Capability) bool {
	return slices.Contains(capability.Networks, m.config.Network.Mode)
}

// connect gives a VM its interface, and returns what takes that back. A driver
// that was asked for by name and takes no network of this host goes without.
func (m *Manager) connect(ctx context.Context, driver vmm.Driver, record store.VM, spec *vmm.Spec, report progress.Func) (func() error, error) {
	if !m.connects(driver.Probe(ctx)) {
		report.Warn(fmt.Sprintf("%s has no network: there is none here that %s can use", record.Name, driver.Name()))
		return func() error { return nil }, nil
	}
	nic, disconnect, err := m.config.Network.Connect(ctx, Link{
		Name: record.Name, MAC: record.MAC, Address: record.Address + PrefixLength, Gateway: Gateway, RunDir: spec.RunDir, Log: networkLog(m.config.Dirs.VM(record.ID)),
	})
	if err != nil {
		return nil, err
	}
	spec.NIC = &nic
	return disconnect, nil
}
