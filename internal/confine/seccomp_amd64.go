package confine

import "golang.org/x/sys/unix"

const (
	auditArch = unix.AUDIT_ARCH_X86_64
	// otherABI is where the numbers of another ABI's system calls begin, which
	// a filter that names calls to deny would miss.
	otherABI = 0x40000000
)
