package vm

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"banger/internal/api"
	"banger/internal/hostenv"
	"banger/internal/network/bridge"
	"banger/internal/network/plan"
	"banger/internal/progress"
	"banger/internal/store"
	"banger/internal/vmm"
)

// Network is one way to connect the interfaces of guests.
type Network struct {
	// Mode is that of the interfaces that Connect makes.
	Mode vmm.NetworkMode
	// DNS is where guests ask for names, MTU what their interfaces get; zero
	// leaves the usual one.
	DNS string
	MTU int
	// Ready says why the VM with an address cannot be connected now; an
	// address that is not valid stands for some VM. The error is
	// [bridge.ErrNotSetUp] where nobody wants it. Nil is always ready.
	Ready func(addr netip.Addr) error
	// Connect makes the other end of a VM's interface. What it starts ends
	// with the VMM by itself; disconnect ends it where no VMM was started.
	Connect func(ctx context.Context, link Link) (nic vmm.NIC, disconnect func() error, err error)
}

// Link is one VM's interface.
type Link struct {
	// Name is the VM's.
	Name, MAC string
	// Address has the prefix length with it.
	Address, Gateway string
	// RunDir is where sockets go, Log what is to be said about it.
	RunDir, Log string
	// Relays are open beyond what the configuration opens.
	Relays []hostenv.Relay
}

// networks returns the ways to connect the VM with an address, best first; an
// address that is not valid stands for some VM. The configuration may name one.
// warn is told of a bridge that there is and that cannot be used.
func (m *Manager) networks(addr netip.Addr, warn func(string)) ([]Network, error) {
	settings, err := m.config.Load()
	if err != nil {
		return nil, &api.Error{Kind: api.KindState, Message: err.Error()}
	}
	wish := settings.NetworkMode
	var usable []Network
	for _, network := range m.config.Networks {
		isBridge := network.Mode == vmm.NetworkTAP
		if wish == "bridge" && !isBridge || wish == "user" && isBridge {
			continue
		}
		if network.Ready != nil {
			err := network.Ready(addr)
			switch {
			case err == nil:
			case wish == "bridge":
				return nil, err
			case errors.Is(err, bridge.ErrNotSetUp):
				continue
			default:
				warn(err.Error() + "; it gets the network of the user mode")
				continue
			}
		}
		usable = append(usable, network)
	}
	return usable, nil
}

// firstFor returns the first network that a driver takes, nil if there is none.
func firstFor(networks []Network, capability vmm.Capability) *Network {
	for i := range networks {
		if slices.Contains(capability.Networks, networks[i].Mode) {
			return &networks[i]
		}
	}
	return nil
}

// connect gives a VM its interface, and returns what takes that back. A driver
// that was asked for by name and takes none of the networks goes without. On
// the bridge there are no relays: a VM that needs some gets another network.
func (m *Manager) connect(ctx context.Context, driver vmm.Driver, networks []Network, record store.VM, spec *vmm.Spec, relays []hostenv.Relay, report progress.Func) (func() error, error) {
	capability := driver.Probe(ctx)
	network := firstFor(networks, capability)
	if network != nil && network.Mode == vmm.NetworkTAP && len(relays) > 0 {
		others := slices.DeleteFunc(slices.Clone(networks), func(n Network) bool { return n.Mode == vmm.NetworkTAP })
		if other := firstFor(others, capability); other != nil {
			network = other
			report.Warn(record.Name + " is not on the bridge, from where it could not reach this host's proxies; it gets the network of the user mode")
		} else {
			report.Warn(record.Name + " cannot reach this host's proxies from the bridge")
		}
	}
	if network == nil {
		report.Warn(fmt.Sprintf("%s has no network: there is none here that %s can use", record.Name, driver.Name()))
		return func() error { return nil }, nil
	}
	nic, disconnect, err := network.Connect(ctx, Link{
		Name: record.Name, MAC: record.MAC, Address: inPlan(record.Address), Gateway: plan.Gateway.String(), RunDir: spec.RunDir, Log: networkLog(m.config.Dirs.VM(record.ID)),
		Relays: relays,
	})
	if err != nil {
		return nil, err
	}
	spec.NIC = &nic
	return disconnect, nil
}

// networkOf is what a running VM is connected to.
func (m *Manager) networkOf(handle *vmm.Handle) Network {
	for _, network := range m.config.Networks {
		if handle != nil && handle.Network == network.Mode {
			return network
		}
	}
	return Network{DNS: plan.Gateway.String()}
}

// onBridge says whether a running VM has its own address on this host's bridge.
func (s snapshot) onBridge() bool {
	return s.machine != nil && s.record.Handle != nil && s.record.Handle.Network == vmm.NetworkTAP
}

// hostAddress is where this host finds the guest.
func (s snapshot) hostAddress() (netip.Addr, bool) {
	if s.onBridge() {
		address, err := netip.ParseAddr(s.record.Address)
		return address, err == nil
	}
	address, err := loopback(s.record)
	return address, err == nil
}

// Lookup returns the address at which this host finds the running VM of that
// name. It is cheap, and true at this moment.
func (m *Manager) Lookup(name string) (netip.Addr, bool) {
	if s, ok := m.named(name); ok {
		return s.hostAddress()
	}
	return netip.Addr{}, false
}

// LookupGuest is [Manager.Lookup] for guests on the bridge, which find each
// other only.
func (m *Manager) LookupGuest(name string) (netip.Addr, bool) {
	if s, ok := m.named(name); ok && s.onBridge() {
		return s.hostAddress()
	}
	return netip.Addr{}, false
}

// named returns the running VM of a name.
func (m *Manager) named(name string) (snapshot, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, e := range m.vms {
		if e.record.Name == name && e.machine != nil && e.phase != api.StateStarting && !e.deleted {
			return e.look(), true
		}
	}
	return snapshot{}, false
}
