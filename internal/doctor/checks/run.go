// Package checks looks at the host and says what works, what does not, and
// what to do about it. It changes nothing but for an empty private runtime
// directory, and needs no running bangerd.
package checks

import (
	"context"
	"errors"
	"strings"

	"banger/internal/api"
	"banger/internal/config"
	"banger/internal/confine"
	"banger/internal/doctor"
	"banger/internal/hostenv"
	"banger/internal/paths"
	"banger/internal/vmm"
	"banger/internal/vmm/kvm"
)

// Deps is what is looked at. Functions may be called at the same time.
type Deps struct {
	Dirs paths.Dirs
	// Config is the configuration, and ConfigErr why it could not be read:
	// the other checks then go by the defaults.
	Config    config.Config
	ConfigErr error
	// Drivers in the order in which "auto" would take them.
	Drivers []vmm.Driver
	// KVM says whether KVM runs guest code at speed.
	KVM func(ctx context.Context) kvm.Verdict
	// Confinement returns the layers that VMMs have on this host, and have not.
	Confinement func(ctx context.Context) ([]confine.Layer, error)
	// Image and Kernel return an entry of the store or of the catalog.
	Image  func(ctx context.Context, name string) (api.Image, error)
	Kernel func(ctx context.Context, name string) (api.Kernel, error)
	// CanFetch says what the host lacks to fetch kernels and images.
	CanFetch func(ctx context.Context) error
	// Schema looks at the database without changing it, and returns its
	// version, 0 if there is none, and the one that this banger wants.
	Schema func(ctx context.Context) (have, want int, err error)
	// NamesServer asks whose banger answers for NAME.vm at an address of this
	// host, NamesWired whose the host's resolver asks for it.
	NamesServer func(ctx context.Context, server string) (owner string, err error)
	NamesWired  func(ctx context.Context) (owner string, err error)
	// HostEnvironment works out what guests get of how this host reaches the
	// network.
	HostEnvironment func(ctx context.Context) hostenv.Passed
	// Bridge says why VMs cannot be on the bridge, [bridge.ErrNotSetUp] where
	// nobody has set it up.
	Bridge func() error
	// LookPath finds a program.
	LookPath func(name string) (string, error)
}

// Run makes every check, and returns one row or more for each, in a fixed
// order.
func Run(ctx context.Context, deps Deps) []doctor.Row {
	checks := []func(context.Context, Deps) []doctor.Row{
		architecture, configuration, runtimeDirectory, virtualization, drivers, confinement, tools, fetching, imageAndKernel,
		database, diskSpace, key, shortcut, network, hostEnvironment, names, defaults,
	}
	var rows []doctor.Row
	for _, check := range checks {
		if ctx.Err() != nil {
			return append(rows, fail("doctor", "it was stopped before the end", ""))
		}
		rows = append(rows, check(ctx, deps)...)
	}
	return rows
}

func pass(check, detail string) doctor.Row {
	return doctor.Row{Check: check, Status: doctor.Pass, Detail: line(detail)}
}

func warn(check, detail, hint string) doctor.Row {
	return doctor.Row{Check: check, Status: doctor.Warn, Detail: line(detail), Hint: line(hint)}
}

func fail(check, detail, hint string) doctor.Row {
	return doctor.Row{Check: check, Status: doctor.Fail, Detail: line(detail), Hint: line(hint)}
}

// explain makes a row of an error, with its hint if it has one.
func explain(check string, status doctor.Status, err error) doctor.Row {
	row := doctor.Row{Check: check, Status: status, Detail: line(err.Error())}
	if answered, ok := errors.AsType[*api.Error](err); ok {
		row.Hint = line(answered.Hint)
	}
	if refused, ok := errors.AsType[*paths.Error](err); ok {
		row.Hint = line(refused.Hint)
	}
	return row
}

func line(text string) string { return strings.Join(strings.Fields(text), " ") }
