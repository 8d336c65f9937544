package kvm

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The requests of linux/kvm.h that are used, for x86-64.
const (
	kvmGetAPIVersion       = 0xae00
	kvmCreateVM            = 0xae01
	kvmGetVCPUMmapSize     = 0xae04
	kvmGetSupportedCPUID   = 0xc008ae05
	kvmCreateVCPU          = 0xae41
	kvmSetUserMemoryRegion = 0x4020ae46
	kvmRun                 = 0xae80
	kvmGetRegs             = 0x8090ae81
	kvmSetRegs             = 0x4090ae82
	kvmGetSregs            = 0x8138ae83
	kvmSetSregs            = 0x4138ae84
	kvmGetMSRs             = 0xc008ae88
	kvmSetMSRs             = 0x4008ae89
	kvmSetCPUID2           = 0x4008ae90

	kvmAPIVersion = 12
	kvmExitIO     = 2
	// Offsets in struct kvm_run.
	runImmediateExit, runExitReason = 1, 8
)

// The guest's memory, at its address 0.
const (
	memorySize = 1 << 20
	pml4       = 0x1000
	pdpt       = 0x2000
	pageDir    = 0x3000
	codeStart  = 0x4000
)

// The guest counts down and then says so on a port, again and again.
const (
	chunks            = 10
	chunkIterations   = 1_000_000
	chunkInstructions = 2 * chunkIterations
)

// code is that of the guest, with the number of iterations at byte 1.
var code = [...]byte{
	0xb9, 0, 0, 0, 0, // start: mov ecx, chunkIterations
	0xff, 0xc9, // again: dec ecx
	0x75, 0xfc, // jnz again
	0xe6, 0x10, // out 0x10, al
	0xeb, 0xf3, // jmp start
}

// msrs are model specific registers that every VMM sets in a new CPU: those
// of system calls, and the page attribute table.
var msrs = [...]uint32{
	0x174, 0x175, 0x176, 0x277, 0xc0000081, 0xc0000082, 0xc0000083, 0xc0000084, 0xc0000102,
}

type regs struct {
	RAX, RBX, RCX, RDX, RSI, RDI, RSP, RBP uint64
	R8, R9, R10, R11, R12, R13, R14, R15   uint64
	RIP, RFLAGS                            uint64
}

type segment struct {
	Base                           uint64
	Limit                          uint32
	Selector                       uint16
	Type, Present, DPL, DB, S, L   uint8
	Granularity, AVL, Unusable, pd uint8
}

type descriptorTable struct {
	Base  uint64
	Limit uint16
	_     [3]uint16
}

type sregs struct {
	CS, DS, ES, FS, GS, SS, TR, LDT segment
	GDT, IDT                        descriptorTable
	CR0, CR2, CR3, CR4, CR8         uint64
	EFER, APICBase                  uint64
	Interrupts                      [4]uint64
}

type memoryRegion struct {
	Slot, Flags                   uint32
	GuestAddress, Size, Userspace uint64
}

type msrEntry struct {
	Index, _ uint32
	Data     uint64
}

type msrList struct {
	Count, _ uint32
	Entries  [len(msrs)]msrEntry
}

type cpuidList struct {
	Count, _ uint32
	Entries  [256][40]byte
}

// guest is a VM with one virtual CPU in 64-bit mode.
type guest struct {
	// mu guards state against stop from another thread.
	mu            sync.Mutex
	vm, vcpu      int
	memory, state []byte
}

func newGuest(kvm int) (_ *guest, err error) {
	g := &guest{vm: -1, vcpu: -1}
	defer func() {
		if err != nil {
			err = errors.Join(err, g.close())
		}
	}()
	version, err := ioctl(kvm, "KVM_GET_API_VERSION", kvmGetAPIVersion, 0)
	if err != nil {
		return nil, err
	}
	if version != kvmAPIVersion {
		return nil, fmt.Errorf("its API has version %d, not %d", version, kvmAPIVersion)
	}
	if g.vm, err = ioctl(kvm, "KVM_CREATE_VM", kvmCreateVM, 0); err != nil {
		return nil, err
	}
	if g.memory, err = unix.Mmap(-1, 0, memorySize, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS); err != nil {
		return nil, fmt.Errorf("no memory: %w", err)
	}
	fill(g.memory)
	region := memoryRegion{Size: memorySize, Userspace: uint64(uintptr(unsafe.Pointer(&g.memory[0])))}
	if _, err := ioctlPointer(g.vm, "KVM_SET_USER_MEMORY_REGION", kvmSetUserMemoryRegion, unsafe.Pointer(&region)); err != nil {
		return nil, err
	}
	if g.vcpu, err = ioctl(g.vm, "KVM_CREATE_VCPU", kvmCreateVCPU, 0); err != nil {
		return nil, err
	}
	size, err := ioctl(kvm, "KVM_GET_VCPU_MMAP_SIZE", kvmGetVCPUMmapSize, 0)
	if err != nil {
		return nil, err
	}
	if g.state, err = unix.Mmap(g.vcpu, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err != nil {
		return nil, fmt.Errorf("cannot map its CPU's state: %w", err)
	}
	if err := g.setUp(kvm); err != nil {
		return nil, err
	}
	return g, nil
}

// fill writes page tables that map the first 2 MiB to themselves, and the code.
func fill(memory []byte) {
	const present, writable, large = 1, 2, 0x80
	binary.LittleEndian.PutUint64(memory[pml4:], pdpt|present|writable)
	binary.LittleEndian.PutUint64(memory[pdpt:], pageDir|present|writable)
	binary.LittleEndian.PutUint64(memory[pageDir:], 0|present|writable|large)
	copy(memory[codeStart:], code[:])
	binary.LittleEndian.PutUint32(memory[codeStart+1:], chunkIterations)
}

// setUp gives the CPU what a VMM gives it, and puts it in 64-bit mode.
func (g *guest) setUp(kvm int) error {
	var cpuid cpuidList
	cpuid.Count = uint32(len(cpuid.Entries))
	if _, err := ioctlPointer(kvm, "KVM_GET_SUPPORTED_CPUID", kvmGetSupportedCPUID, unsafe.Pointer(&cpuid)); err != nil {
		return err
	}
	if _, err := ioctlPointer(g.vcpu, "KVM_SET_CPUID2", kvmSetCPUID2, unsafe.Pointer(&cpuid)); err != nil {
		return err
	}
	var s sregs
	if _, err := ioctlPointer(g.vcpu, "KVM_GET_SREGS", kvmGetSregs, unsafe.Pointer(&s)); err != nil {
		return err
	}
	const (
		cr0PE, cr0MP, cr0ET, cr0NE, cr0WP, cr0PG = 1, 1 << 1, 1 << 4, 1 << 5, 1 << 16, 1 << 31
		cr4PAE                                   = 1 << 5
		eferLME, eferLMA                         = 1 << 8, 1 << 10
	)
	s.CR3, s.CR4 = pml4, cr4PAE
	s.CR0 = cr0PE | cr0MP | cr0ET | cr0NE | cr0WP | cr0PG
	s.EFER = eferLME | eferLMA
	s.CS = segment{Limit: 0xffffffff, Selector: 1 << 3, Type: 11, Present: 1, S: 1, L: 1, Granularity: 1}
	data := segment{Limit: 0xffffffff, Selector: 2 << 3, Type: 3, Present: 1, DB: 1, S: 1, Granularity: 1}
	s.DS, s.ES, s.FS, s.GS, s.SS = data, data, data, data, data
	if _, err := ioctlPointer(g.vcpu, "KVM_SET_SREGS", kvmSetSregs, unsafe.Pointer(&s)); err != nil {
		return err
	}
	r := regs{RIP: codeStart, RFLAGS: 2, RSP: memorySize}
	if _, err := ioctlPointer(g.vcpu, "KVM_SET_REGS", kvmSetRegs, unsafe.Pointer(&r)); err != nil {
		return err
	}
	list := msrList{Count: uint32(len(msrs))}
	for i, index := range msrs {
		list.Entries[i].Index = index
	}
	for _, request := range []struct {
		name string
		code uintptr
	}{{"KVM_GET_MSRS", kvmGetMSRs}, {"KVM_SET_MSRS", kvmSetMSRs}} {
		n, err := ioctlPointer(g.vcpu, request.name, request.code, unsafe.Pointer(&list))
		if err != nil {
			return err
		}
		if n < len(msrs) {
			return fmt.Errorf("%s refuses register %#x", request.name, msrs[n])
		}
	}
	return nil
}

// run lets the guest do one chunk, or what is left of one. False means that it
// was interrupted.
func (g *guest) run() (bool, error) {
	_, err := ioctl(g.vcpu, "KVM_RUN", kvmRun, 0)
	if errors.Is(err, unix.EINTR) || errors.Is(err, unix.EAGAIN) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if reason := binary.LittleEndian.Uint32(g.state[runExitReason:]); reason != kvmExitIO {
		return false, fmt.Errorf("the guest stopped for reason %d", reason)
	}
	return true, nil
}

// left is how many instructions of the chunk are still to be run.
func (g *guest) left() (uint64, error) {
	var r regs
	if _, err := ioctlPointer(g.vcpu, "KVM_GET_REGS", kvmGetRegs, unsafe.Pointer(&r)); err != nil {
		return 0, err
	}
	return 2 * uint64(uint32(r.RCX)), nil
}

// stop makes this and every later run return. It may be called from any
// thread, and after close; a signal must follow.
func (g *guest) stop() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.state != nil {
		g.state[runImmediateExit] = 1
	}
}

func (g *guest) close() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	var errs []error
	for _, memory := range []*[]byte{&g.state, &g.memory} {
		if *memory != nil {
			errs = append(errs, unix.Munmap(*memory))
			*memory = nil
		}
	}
	for _, fd := range []int{g.vcpu, g.vm} {
		if fd >= 0 {
			errs = append(errs, unix.Close(fd))
		}
	}
	return errors.Join(errs...)
}

// ioctl makes a request with a number as its argument.
func ioctl(fd int, name string, request, argument uintptr) (int, error) {
	n, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, argument)
	if errno != 0 {
		return -1, fmt.Errorf("%s: %w", name, errno)
	}
	return int(n), nil
}

// ioctlPointer makes a request with a structure.
func ioctlPointer(fd int, name string, request uintptr, argument unsafe.Pointer) (int, error) {
	n, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), request, uintptr(argument))
	if errno != 0 {
		return -1, fmt.Errorf("%s: %w", name, errno)
	}
	return int(n), nil
}
