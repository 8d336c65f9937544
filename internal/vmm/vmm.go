// Package vmm is the contract between banger and the virtual machine monitors
// that run its guests. A VMM is started as a process of its own that outlives
// bangerd; what is needed to find it again is its [Handle].
package vmm

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"banger/internal/confine"
)

// ErrGone is returned by [Driver.Adopt] when the process of a handle is no
// longer there, or when its pid belongs to another process by now.
var ErrGone = errors.New("the VMM process is gone")

// Disk is one block device. The order of [Spec.Disks] is the order in which the
// guest sees them: vda, vdb, ...
type Disk struct {
	Path     string `json:"path"`
	ReadOnly bool   `json:"read_only,omitempty"`
	// Volatile says that it need not outlive a crash of the host: a guest that
	// flushes does not wait for the host's own disk.
	Volatile bool `json:"volatile,omitempty"`
}

// NetworkMode says what a guest's interface is connected to.
type NetworkMode string

const (
	// NetworkUser is QEMU's own user networking: no privilege, no helper. It
	// lets the guest reach what listens on the host's loopback interface, at
	// the gateway's address, and that cannot be turned off.
	NetworkUser NetworkMode = "user"
	// NetworkStream is a unix stream socket at [NIC.Socket] on which frames
	// go with a 4-byte big-endian length before each (QEMU's -netdev stream).
	NetworkStream NetworkMode = "stream"
	// NetworkTAP is an existing persistent TAP device, [NIC.TAP].
	NetworkTAP NetworkMode = "tap"
)

// NIC is the guest's only network interface.
type NIC struct {
	Mode NetworkMode `json:"mode"`
	MAC  string      `json:"mac"`
	// Address is the guest's address with its prefix length, Gateway the
	// host's end; DNS is answered there too. Used by NetworkUser only: the
	// other modes carry plain Ethernet.
	Address string `json:"address,omitempty"`
	Gateway string `json:"gateway,omitempty"`
	DNS     string `json:"dns,omitempty"`
	Socket  string `json:"socket,omitempty"`
	TAP     string `json:"tap,omitempty"`
}

// Spec describes one boot. A VMM's command line or API calls are a pure
// function of it.
type Spec struct {
	// ID names the VM: 1-64 of a-z0-9 and '-'.
	ID string
	// RunDir holds the sockets of this boot: private (0700), exists, on a
	// path short enough for sockets (107 bytes with the name).
	RunDir string
	// ConsoleLog gets what the guest prints on its serial console, VMMLog
	// what the VMM itself says. Both are created or truncated by Boot.
	ConsoleLog, VMMLog string
	// Metrics gets what a VMM that does so measures of itself, in lines of
	// JSON; empty for nowhere. It is made anew by Boot, too.
	Metrics string

	Kernel, Initramfs string
	// Cmdline is added to the kernel arguments that the driver gives on its
	// own account (console, reboot, panic, ...); it may well be empty.
	Cmdline string

	VCPU      int
	MemoryMiB int
	Disks     []Disk
	// NIC is nil for a guest without a network.
	NIC *NIC
}

// Handle finds a running VMM again. It is a claim, verified at every use: the
// pid alone means nothing.
type Handle struct {
	// Driver is the name of the driver that can adopt this handle.
	Driver string `json:"driver"`
	PID    int    `json:"pid"`
	// StartTime is field 22 of /proc/PID/stat, clock ticks since the host's
	// boot, and BootID /proc/sys/kernel/random/boot_id at that time.
	StartTime uint64 `json:"start_time"`
	BootID    string `json:"boot_id"`
	RunDir    string `json:"run_dir"`
	// Accelerator is "kvm" or "tcg".
	Accelerator string `json:"accelerator"`
	Version     string `json:"version"`
	// Network is what the guest's interface is connected to, empty if it has
	// none: noted by who started the VM, and nothing that a driver goes by.
	Network NetworkMode `json:"network,omitempty"`
	// Confinement is how the process is kept from what is not the VM's.
	Confinement []confine.Layer `json:"confinement,omitempty"`
}

// Capability is what a driver found out about itself on this host.
type Capability struct {
	// Usable says that Boot can work. Accelerated says that guests run on KVM.
	Usable      bool   `json:"usable"`
	Accelerated bool   `json:"accelerated"`
	Binary      string `json:"binary,omitempty"`
	Version     string `json:"version,omitempty"`
	// Networks are the modes of a [NIC] that Boot takes; a driver that names
	// none runs guests without a network only.
	Networks []NetworkMode `json:"networks,omitempty"`
	// Reasons says, in sentences for the user, why it is not usable or not
	// accelerated.
	Reasons []string `json:"reasons,omitempty"`
}

// Driver starts and finds VMMs of one kind. Its methods may be called from any
// goroutine.
type Driver interface {
	// Name is "qemu" or "firecracker".
	Name() string
	// Probe looks at the host: the binary, its version, KVM. It takes up to
	// two seconds the first time and may cache.
	Probe(ctx context.Context) Capability
	// Boot starts a VMM and returns once the guest's CPUs run, which is long
	// before the guest answers. The VM's life does not hang on ctx: a ctx
	// that ends while Boot runs undoes the start, later it does nothing.
	// After an error nothing is left running. A VMM that dies at once is an
	// error with the tail of its log.
	Boot(ctx context.Context, spec Spec) (Machine, error)
	// Adopt takes a running VMM over after a restart of bangerd. It returns
	// an error that is [ErrGone] if there is none.
	Adopt(ctx context.Context, handle Handle) (Machine, error)
}

// Machine is one running VMM. Its methods may be called from any goroutine.
type Machine interface {
	Handle() Handle
	// DialAgent opens a new byte stream to the guest's agent; many can be
	// open at once. While the guest has not got that far it waits until ctx
	// ends or the VMM is gone, or fails at once: callers retry until their
	// own deadline. The stream does not end with ctx.
	DialAgent(ctx context.Context) (net.Conn, error)
	// Kill ends the VMM at once, as a power cut would, and waits until the
	// process is gone. It is idempotent.
	Kill(ctx context.Context) error
	// Cut is Kill that returns some 30 ms earlier where the guest ran on KVM:
	// nothing of it runs any more, and what is left is the kernel's to put
	// away. Its files and devices are in use until Done is closed.
	Cut(ctx context.Context) error
	// Done is closed when the process is gone, however it ended.
	Done() <-chan struct{}
	// Close lets go of the machine without touching the VM: connections to
	// it are closed, the VMM runs on and can be adopted.
	Close() error
}

// ConsoleError is an error of a boot, with the end of what was logged.
type ConsoleError struct {
	Err  error
	Tail string
}

func (e *ConsoleError) Error() string {
	if e.Tail == "" {
		return e.Err.Error()
	}
	return fmt.Sprintf("%v; its log ends with: %s", e.Err, e.Tail)
}

func (e *ConsoleError) Unwrap() error { return e.Err }

// KillTimeout bounds the wait for a killed process to be gone.
const KillTimeout = 10 * time.Second
