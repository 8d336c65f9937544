package firecracker

import (
	"fmt"
	"path/filepath"
	"strings"

	"banger/internal/agent/wire"
	"banger/internal/vmm"
	"banger/internal/vmm/firecracker/fcapi"
	"banger/internal/vmm/netns"
)

// Names in a VM's run directory.
const (
	apiSocket   = "firecracker.sock"
	vsockSocket = "vsock.sock"
)

// maxSocketPath is what fits sun_path with its final NUL.
const maxSocketPath = 107

// guestCID is the guest's address on its vsock; 2 is the host, and every VM has
// a socket of its own.
const guestCID = 3

// kernelArguments are those that fit this machine. All are needed: what
// Firecracker gives a kernel by itself forbids modules. A reset through the
// keyboard controller (reboot=k, panic=-1) ends the process with status 0;
// there is nothing to power off, so that the agent ends a guest that way, too.
const kernelArguments = "console=ttyS0 8250.nr_uarts=1 quiet reboot=k panic=-1 i8042.noaux i8042.nomux i8042.dumbkbd cryptomgr.notests random.trust_cpu=on " + wire.PowerOffByReboot

// plan is all that is asked of a fresh Firecracker, in order, before the start.
type plan struct {
	metrics string // a path
	machine fcapi.MachineConfig
	boot    fcapi.BootSource
	drives  []fcapi.Drive
	nic     *fcapi.NetworkInterface
	vsock   fcapi.Vsock
}

// planOf is a pure function of a VM.
func planOf(spec vmm.Spec) (plan, error) {
	for _, name := range []string{apiSocket, vsockSocket} {
		if path := filepath.Join(spec.RunDir, name); len(path) > maxSocketPath {
			return plan{}, fmt.Errorf("cannot use the run directory %q: the socket path %q has %d bytes and at most %d are allowed", spec.RunDir, path, len(path), maxSocketPath)
		}
	}
	p := plan{
		metrics: spec.Metrics,
		machine: fcapi.MachineConfig{VCPU: spec.VCPU, MemoryMiB: spec.MemoryMiB},
		boot:    fcapi.BootSource{Kernel: spec.Kernel, Initrd: spec.Initramfs, Args: strings.TrimSpace(kernelArguments + " " + spec.Cmdline)},
		vsock:   fcapi.Vsock{CID: guestCID, Path: filepath.Join(spec.RunDir, vsockSocket)},
	}
	for i, disk := range spec.Disks {
		// A root device would add root= and be moved to the front.
		drive := fcapi.Drive{ID: fmt.Sprintf("disk%d", i), ReadOnly: disk.ReadOnly, Path: disk.Path}
		if !disk.ReadOnly && !disk.Volatile {
			drive.Cache = "Writeback" // else no flush is passed on
		}
		p.drives = append(p.drives, drive)
	}
	if nic := spec.NIC; nic != nil {
		tap := nic.TAP
		switch nic.Mode {
		case vmm.NetworkTAP:
		case vmm.NetworkStream:
			tap = netns.TAP
		case vmm.NetworkUser:
			return plan{}, fmt.Errorf("cannot connect a VM on firecracker to a network of mode %q", nic.Mode)
		}
		p.nic = &fcapi.NetworkInterface{ID: "eth0", TAP: tap, MAC: nic.MAC}
	}
	return p, nil
}
