package qemu

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"path/filepath"
	"strconv"
	"strings"

	"banger/internal/agent/wire"
	"banger/internal/vmm"
	"banger/internal/vmm/launch/launcher"
)

// Sockets in a VM's run directory.
const (
	qmpSocket   = "qmp.sock"
	agentSocket = "agent.sock"
)

// maxSocketPath is what fits sun_path with its final NUL.
const maxSocketPath = 107

// networkFD is the connection to the network of [vmm.NetworkStream]: QEMU may
// not connect to anything itself.
const networkFD = launcher.FirstFile

// dnsHost is the host part of the address where QEMU's own user networking
// answers DNS unless the NIC says otherwise.
const dnsHost = 3

// host is what a command line depends on besides the VM.
type host struct {
	kvm bool
	// tscKHz is the rate of the host's time stamp counter, which is the
	// guest's too under TCG; 0 if it is not known.
	tscKHz uint64
}

// arguments is QEMU's command line without the program: a pure function.
func arguments(spec vmm.Spec, on host) ([]string, error) {
	if spec.VCPU < 1 || spec.MemoryMiB < 1 {
		return nil, fmt.Errorf("cannot run a VM with %d CPUs and %d MiB", spec.VCPU, spec.MemoryMiB)
	}
	for _, name := range []string{qmpSocket, agentSocket} {
		if path := filepath.Join(spec.RunDir, name); len(path) > maxSocketPath {
			return nil, fmt.Errorf("cannot use the run directory %q: the socket path %q has %d bytes and at most %d are allowed", spec.RunDir, path, len(path), maxSocketPath)
		}
	}
	// Without fast string instructions the guest copies eight bytes at a time:
	// emulation does either one by one.
	accel, cpu := "tcg,thread=multi,tb-size=256", "max,la57=off,erms=off,fsrm=off"
	if on.kvm {
		accel, cpu = "kvm", "host"
	}
	args := []string{
		"-name", "banger-" + spec.ID,
		"-no-user-config", "-nodefaults", "-no-reboot",
		"-display", "none",
		"-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
		"-msg", "timestamp=on",
		// ACPI is how the kernel finds the devices and powers off.
		"-machine", "microvm,acpi=on,x-option-roms=off,pit=on,pic=on,rtc=on,isa-serial=on,dump-guest-core=off",
		"-global", "virtio-mmio.force-legacy=false",
		"-accel", accel,
		"-cpu", cpu,
		"-smp", strconv.Itoa(spec.VCPU),
		"-m", strconv.Itoa(spec.MemoryMiB) + "M",
		"-kernel", spec.Kernel,
	}
	if spec.Initramfs != "" {
		args = append(args, "-initrd", spec.Initramfs)
	}
	args = append(args,
		"-append", kernelArguments(spec, on),
		// Appended to, so that the file can be cut short while QEMU runs.
		"-chardev", "file,id=console,append=on,path="+escape(spec.ConsoleLog),
		"-serial", "chardev:console",
		"-chardev", "socket,id=qmp,server=on,wait=off,path="+escape(filepath.Join(spec.RunDir, qmpSocket)),
		"-mon", "chardev=qmp,mode=control",
	)
	for i, disk := range spec.Disks {
		device, err := diskArguments(i, disk)
		if err != nil {
			return nil, err
		}
		args = append(args, device...)
	}
	args = append(args,
		"-device", "virtio-serial-device,max_ports=2",
		"-chardev", "socket,id=agent,server=on,wait=off,path="+escape(filepath.Join(spec.RunDir, agentSocket)),
		"-device", "virtserialport,nr=1,chardev=agent,name="+wire.SerialPort,
		"-object", "rng-builtin,id=rng",
		"-device", "virtio-rng-device,rng=rng",
	)
	if spec.NIC != nil {
		netdev, err := netdevArgument(*spec.NIC)
		if err != nil {
			return nil, err
		}
		args = append(args, "-netdev", netdev, "-device", "virtio-net-device,netdev=net,mac="+escape(spec.NIC.MAC))
	}
	return args, nil
}

// kernelArguments are those that follow from the machine, then the VM's own.
func kernelArguments(spec vmm.Spec, on host) string {
	args := []string{
		"console=ttyS0", "8250.nr_uarts=1",
		"quiet", // each character on the serial port is an exit to the VMM
		"reboot=t", "panic=-1",
		"pci=off", "no_timer_check", "cryptomgr.notests", "random.trust_cpu=on",
	}
	if !on.kvm {
		// No hardware is shared that speculation could leak from.
		args = append(args, "mitigations=off")
		if on.tscKHz != 0 {
			// microvm has nothing to measure the TSC against. Without it the
			// guest's clock counts timer ticks, if it boots at all: that
			// hangs now and then on a busy host.
			args = append(args, "tsc=reliable", "tsc_early_khz="+strconv.FormatUint(on.tscKHz, 10))
		}
	}
	if spec.Cmdline != "" {
		args = append(args, spec.Cmdline)
	}
	return strings.Join(args, " ")
}

// diskArguments adds one disk. The n-th becomes the guest's n-th vd device.
// QEMU's default for the cache is the right one: the host's page cache, which
// guests share, and a guest's flush is an fsync, unless the disk is volatile.
func diskArguments(n int, disk vmm.Disk) ([]string, error) {
	type file struct {
		Driver   string `json:"driver"`
		Filename string `json:"filename"`
		AIO      string `json:"aio"`
		Discard  string `json:"discard,omitempty"`
	}
	type cache struct {
		NoFlush bool `json:"no-flush"`
	}
	type node struct {
		Driver       string `json:"driver"`
		NodeName     string `json:"node-name"`
		ReadOnly     bool   `json:"read-only"`
		Discard      string `json:"discard,omitempty"`
		DetectZeroes string `json:"detect-zeroes,omitempty"`
		Cache        *cache `json:"cache,omitempty"`
		File         file   `json:"file"`
	}
	name := "disk" + strconv.Itoa(n)
	blockdev := node{
		Driver: "raw", NodeName: name, ReadOnly: disk.ReadOnly,
		File: file{Driver: "file", Filename: disk.Path, AIO: "threads"},
	}
	// A full host disk is an I/O error in the guest: the default, to stop the
	// VM, would leave everyone waiting without a word.
	device := "virtio-blk-device,drive=" + name + ",rerror=report,werror=report"
	if !disk.ReadOnly {
		blockdev.Discard, blockdev.DetectZeroes, blockdev.File.Discard = "unmap", "unmap", "unmap"
	}
	if disk.Volatile {
		blockdev.Cache = &cache{NoFlush: true}
	}
	text, err := json.Marshal(blockdev)
	if err != nil {
		return nil, fmt.Errorf("cannot encode disk %q: %w", disk.Path, err)
	}
	return []string{"-blockdev", string(text), "-device", device}, nil
}

func netdevArgument(nic vmm.NIC) (string, error) {
	switch nic.Mode {
	case vmm.NetworkUser:
		return userNetdev(nic)
	case vmm.NetworkStream:
		return "stream,id=net,server=off,addr.type=fd,addr.str=" + strconv.Itoa(networkFD), nil
	case vmm.NetworkTAP:
		return "tap,id=net,script=no,downscript=no,ifname=" + escape(nic.TAP), nil
	}
	return "", fmt.Errorf("cannot connect the VM: unknown network mode %q", nic.Mode)
}

func userNetdev(nic vmm.NIC) (string, error) {
	address, err := netip.ParsePrefix(nic.Address)
	if err != nil || !address.Addr().Is4() || address.Bits() > 28 {
		return "", fmt.Errorf("cannot connect the VM: %q is not an IPv4 address with a prefix length of 28 or less", nic.Address)
	}
	network := address.Masked()
	gateway, dns := nth(network, 1), nth(network, dnsHost)
	for _, given := range []struct {
		text string
		to   *netip.Addr
	}{{nic.Gateway, &gateway}, {nic.DNS, &dns}} {
		if given.text == "" {
			continue
		}
		parsed, err := netip.ParseAddr(given.text)
		if err != nil || !network.Contains(parsed) {
			return "", fmt.Errorf("cannot connect the VM: %q is not an address in %v", given.text, network)
		}
		*given.to = parsed
	}
	if gateway == dns {
		return "", fmt.Errorf("cannot connect the VM: QEMU's user networking needs different addresses for gateway and DNS, both are %v", dns)
	}
	return fmt.Sprintf("user,id=net,ipv6=off,net=%v,host=%v,dns=%v", network, gateway, dns), nil
}

// nth is an address of an IPv4 network.
func nth(network netip.Prefix, n byte) netip.Addr {
	bytes := network.Addr().As4()
	bytes[3] += n // does not overflow: the network has 16 addresses or more
	return netip.AddrFrom4(bytes)
}

// escape makes text fit for the value of an option: QEMU ends it at a comma.
func escape(text string) string { return strings.ReplaceAll(text, ",", ",,") }
