// Package vmmtest has what tests of and with VMM drivers need: [Run], the
// contract that every driver must keep, and [Fake], a driver that is quick.
package vmmtest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"banger/internal/agent/wire"
	"banger/internal/vmm"
	"banger/internal/vmm/process"
)

// FakeName is the name of the driver [Fake].
const FakeName = "fake"

// Fake is a driver that keeps the contract without a guest: a VM is a real
// process that does nothing, and an agent within the test's process which
// answers hello, ready, configuration, ports, stats and shutdown. It keeps
// what "ran" over [Machine.Close], so that a second bangerd of the same test
// can adopt it. Make it with [NewFake].
type Fake struct {
	sleep string

	mu     sync.Mutex
	guests []*guest // in order of boot; ended ones too
	// What follows is set by the methods of the same name.
	handler  func(spec vmm.Spec, agent http.Handler) http.Handler
	bootErr  error
	silent   bool
	starting func(ctx context.Context, spec vmm.Spec) error
}

// guest is one boot of one VM.
type guest struct {
	spec     vmm.Spec
	process  *process.Process
	listener *pipeListener
	server   *http.Server
	agent    *fakeAgent
	cut      atomic.Bool
}

// NewFake returns a Fake whose VMs end with the test.
func NewFake(tb testing.TB) *Fake {
	tb.Helper()
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		tb.Fatalf("cannot make a fake VMM: %v", err)
	}
	fake := &Fake{sleep: sleep}
	tb.Cleanup(func() {
		for _, g := range fake.snapshot() {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(tb.Context()), vmm.KillTimeout)
			if err := g.process.Kill(ctx); err != nil {
				tb.Errorf("cannot end a fake VM: %v", err)
			}
			cancel()
			_ = g.server.Close()
			_ = g.process.Close()
		}
	})
	return fake
}

// FailBoot makes every later Boot fail with err; nil ends that.
func (f *Fake) FailBoot(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.bootErr = err
}

// Silence makes the guests of later boots never answer on the agent channel.
func (f *Fake) Silence(silent bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.silent = silent
}

// OnBoot calls hook at the start of every later Boot, which fails if hook does.
func (f *Fake) OnBoot(hook func(ctx context.Context, spec vmm.Spec) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.starting = hook
}

// Handle wraps the agents of later boots: wrap gets the Fake's own agent and
// returns what answers in its place.
func (f *Fake) Handle(wrap func(spec vmm.Spec, agent http.Handler) http.Handler) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.handler = wrap
}

// Boots returns the specifications of all successful boots of a VM.
func (f *Fake) Boots(id string) []vmm.Spec {
	var specs []vmm.Spec
	for _, g := range f.snapshot() {
		if g.spec.ID == id {
			specs = append(specs, g.spec)
		}
	}
	return specs
}

// Cuts says of each successful boot of a VM whether [vmm.Machine.Cut] ended it.
func (f *Fake) Cuts(id string) []bool {
	var cuts []bool
	for _, g := range f.snapshot() {
		if g.spec.ID == id {
			cuts = append(cuts, g.cut.Load())
		}
	}
	return cuts
}

// Running returns the ids of all VMs whose process is there.
func (f *Fake) Running() []string {
	var ids []string
	for _, g := range f.snapshot() {
		if !g.ended() {
			ids = append(ids, g.spec.ID)
		}
	}
	return ids
}

// Configurations returns what the running guest of a VM was told, in order.
func (f *Fake) Configurations(id string) []wire.Configuration {
	for _, g := range f.snapshot() {
		if g.spec.ID == id && !g.ended() {
			return g.agent.configurations()
		}
	}
	return nil
}

// Crash kills the process of a VM behind everyone's back and waits for its
// end. It says whether there was one.
func (f *Fake) Crash(ctx context.Context, id string) (bool, error) {
	for _, g := range f.snapshot() {
		if g.spec.ID == id && !g.ended() {
			return true, g.process.Kill(ctx)
		}
	}
	return false, nil
}

func (f *Fake) snapshot() []*guest {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.guests)
}

// Name implements [vmm.Driver].
func (f *Fake) Name() string { return FakeName }

// Probe implements [vmm.Driver].
func (f *Fake) Probe(context.Context) vmm.Capability {
	return vmm.Capability{Usable: true, Accelerated: true, Binary: f.sleep, Version: "1", Networks: []vmm.NetworkMode{vmm.NetworkUser, vmm.NetworkStream, vmm.NetworkTAP}}
}

// Boot implements [vmm.Driver].
func (f *Fake) Boot(ctx context.Context, spec vmm.Spec) (vmm.Machine, error) {
	f.mu.Lock()
	bootErr, silent, starting, wrap := f.bootErr, f.silent, f.starting, f.handler
	f.mu.Unlock()
	if starting != nil {
		if err := starting(ctx, spec); err != nil {
			return nil, err
		}
	}
	if bootErr != nil {
		return nil, bootErr
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("cannot start the fake VMM: %w", err)
	}
	for _, disk := range spec.Disks {
		if _, err := os.Stat(disk.Path); err != nil {
			return nil, fmt.Errorf("cannot start the fake VMM: disk: %w", err)
		}
	}
	for _, log := range []string{spec.ConsoleLog, spec.VMMLog} {
		if err := os.WriteFile(log, []byte("fake "+spec.ID+"\n"), 0o600); err != nil {
			return nil, fmt.Errorf("cannot start the fake VMM: %w", err)
		}
	}
	child, err := process.Start(process.Command{Path: f.sleep, Args: []string{"1000000000"}})
	if err != nil {
		return nil, err
	}
	g := &guest{spec: spec, process: child, listener: newPipeListener(), agent: newAgent(spec)}
	g.agent.powerOff = func() {
		// The answer must get out first, as a real guest's would.
		go func() { _ = child.Kill(context.WithoutCancel(ctx)) }()
	}
	var handler http.Handler = g.agent
	if wrap != nil {
		handler = wrap(spec, handler)
	}
	g.server = &http.Server{Handler: handler} //nolint:gosec // both ends are this test
	go func() { _ = g.server.Serve(g.listener) }()
	if silent {
		_ = g.listener.Close()
	}
	go func() {
		<-child.Done()
		_ = g.listener.Close()
		_ = g.server.Close()
	}()
	f.mu.Lock()
	f.guests = append(f.guests, g)
	f.mu.Unlock()
	return f.Adopt(ctx, handle(child.Identity(), spec.RunDir))
}

func handle(id process.Identity, runDir string) vmm.Handle {
	return vmm.Handle{
		Driver: FakeName, PID: id.PID, StartTime: id.StartTime, BootID: id.BootID,
		RunDir: runDir, Accelerator: "kvm", Version: "1",
	}
}

// Adopt implements [vmm.Driver].
func (f *Fake) Adopt(_ context.Context, handle vmm.Handle) (vmm.Machine, error) {
	id := process.Identity{PID: handle.PID, StartTime: handle.StartTime, BootID: handle.BootID}
	guests := f.snapshot()
	at := slices.IndexFunc(guests, func(g *guest) bool { return g.process.Identity() == id })
	if at < 0 {
		return nil, vmm.ErrGone
	}
	p, err := process.Open(id)
	if errors.Is(err, process.ErrGone) {
		return nil, vmm.ErrGone
	}
	if err != nil {
		return nil, err
	}
	return &fakeMachine{handle: handle, guest: guests[at], process: p}, nil
}

// ended asks the kernel: what waits for the process here may learn of its end
// later than what waits for it in a machine.
func (g *guest) ended() bool {
	select {
	case <-g.process.Done():
		return true
	default:
	}
	again, err := process.Open(g.process.Identity())
	if err != nil {
		return errors.Is(err, process.ErrGone)
	}
	_ = again.Close()
	return false
}

type fakeMachine struct {
	handle  vmm.Handle
	guest   *guest
	process *process.Process
}

func (m *fakeMachine) Handle() vmm.Handle { return m.handle }

func (m *fakeMachine) DialAgent(ctx context.Context) (net.Conn, error) {
	select {
	case <-m.process.Done(): // the agent ends a little later
		return nil, errors.New("cannot reach the guest's agent: the VM has ended")
	default:
		return m.guest.listener.dial(ctx)
	}
}

func (m *fakeMachine) Kill(ctx context.Context) error { return m.process.Kill(ctx) }
func (m *fakeMachine) Done() <-chan struct{}          { return m.process.Done() }
func (m *fakeMachine) Close() error                   { return m.process.Close() }

func (m *fakeMachine) Cut(ctx context.Context) error {
	m.guest.cut.Store(true)
	return m.process.Cut(ctx)
}
