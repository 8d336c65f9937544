package firecracker

import (
	"fmt"
	"path/filepath"
	"strings"

	"banger/internal/vmm"
	"banger/internal/vmm/firecracker/fcapi"
)

// Names in a VM's run directory.
const (
	apiSocket   = "firecracker.sock"
	vsockSocket = "vsock.sock"
)

// guestCID is the guest's address on its vsock; 2 is the host, and every VM has
// a socket of its own.
const guestCID = 3

// kernelArguments are those that fit this machine. All are needed: what
// Firecracker gives a kernel by itself forbids modules. A guest that reboots
// ends the process (reboot=t, panic=-1); there is no PCI, no keyboard.
const kernelArguments = "console=ttyS0 quiet loglevel=4 reboot=t panic=-1 pci=off i8042.noaux i8042.nomux i8042.dumbkbd 8250.nr_uarts=1 tsc=reliable random.trust_cpu=on"

// plan is all that is asked of a fresh Firecracker, in order, before the start.
type plan struct {
	machine fcapi.MachineConfig
	boot    fcapi.BootSource
	drives  []fcapi.Drive
	nic     *fcapi.NetworkInterface
	vsock   fcapi.Vsock
}

// planOf is a pure function of a VM.
func planOf(spec vmm.Spec) (plan, error) {
	p := plan{
		machine: fcapi.MachineConfig{VCPU: spec.VCPU, MemoryMiB: spec.MemoryMiB},
		boot:    fcapi.BootSource{Kernel: spec.Kernel, Initrd: spec.Initramfs, Args: strings.TrimSpace(kernelArguments + " " + spec.Cmdline)},
		vsock:   fcapi.Vsock{CID: guestCID, Path: filepath.Join(spec.RunDir, vsockSocket)},
	}
	for i, disk := range spec.Disks {
		// A root device would add root= and be moved to the front.
		drive := fcapi.Drive{ID: fmt.Sprintf("disk%d", i), ReadOnly: disk.ReadOnly, Path: disk.Path}
		if !disk.ReadOnly {
			drive.Cache = "Writeback"
		}
		p.drives = append(p.drives, drive)
	}
	if nic := spec.NIC; nic != nil {
		if nic.Mode != vmm.NetworkTAP {
			return plan{}, fmt.Errorf("cannot connect a VM on firecracker to a network of mode %q: it takes TAP devices only", nic.Mode)
		}
		p.nic = &fcapi.NetworkInterface{ID: "eth0", TAP: nic.TAP, MAC: nic.MAC}
	}
	return p, nil
}
