package confine

import (
	"cmp"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Offsets in struct seccomp_data. Only the low half of an argument is looked
// at, which is all that the kernel takes of flags, families and pids.
const (
	offsetCall = 0
	offsetArch = 4
	offsetArgs = 16
)

// Verdicts of a [Filter].
var (
	Allow = unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW}
	Deny  = Fail(unix.EPERM)
)

// Fail is the verdict that makes a system call fail.
func Fail(errno unix.Errno) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(errno)}
}

// Arg loads the n-th argument, from 0, of a system call.
func Arg(n int) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: uint32(offsetArgs + 8*n)}
}

// If compares what was loaded, and skips so many instructions if it is equal
// to a value, or is not.
func If(value uint32, equal, other uint8) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: value, Jt: equal, Jf: other}
}

// IfAny is [If] for whether any of some bits is set.
func IfAny(bits uint32, set, other uint8) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K, K: bits, Jt: set, Jf: other}
}

// Mask leaves some bits of what was loaded.
func Mask(bits uint32) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: bits}
}

// NewNamespaces are the flags of clone that make some.
const NewNamespaces = unix.CLONE_NEWNS | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWUSER | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWCGROUP

// Filter says which system calls a process may make. Those of another
// architecture end it.
type Filter struct{ rules []rule }

type rule struct {
	call uint32
	body []unix.SockFilter
}

// NewFilter returns a filter without rules.
func NewFilter() *Filter { return new(Filter) }

// On says what is run for one system call, which it is called once for. It must
// come to a verdict.
func (f *Filter) On(call uint32, body ...unix.SockFilter) {
	f.rules = append(f.rules, rule{call, body})
}

// program is the filter, with the verdict on all other calls.
func (f *Filter) program(otherwise unix.SockFilter) ([]unix.SockFilter, error) {
	load := func(offset uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: offset}
	}
	rules := slices.SortedFunc(slices.Values(f.rules), func(a, b rule) int { return cmp.Compare(a.call, b.call) })
	for i := 1; i < len(rules); i++ {
		if rules[i].call == rules[i-1].call {
			return nil, fmt.Errorf("cannot filter system calls: there are two rules for number %d", rules[i].call)
		}
	}
	return slices.Concat([]unix.SockFilter{
		load(offsetArch),
		If(auditArch, 1, 0),
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_KILL_PROCESS},
		load(offsetCall),
		{Code: unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K, K: otherABI, Jf: 1},
		Deny,
	}, search(rules, otherwise)), nil
}

// search finds the rule for a call among those that are sorted, by halves: the
// kernel goes through a filter at many calls, and at once for every number
// there is when it is installed.
func search(rules []rule, otherwise unix.SockFilter) []unix.SockFilter {
	const few = 4
	if len(rules) <= few {
		var program []unix.SockFilter
		for _, r := range rules {
			program = append(program, If(r.call, 0, uint8(len(r.body))))
			program = append(program, r.body...)
		}
		return append(program, otherwise)
	}
	half := len(rules) / 2
	lower := search(rules[:half], otherwise)
	return slices.Concat([]unix.SockFilter{
		{Code: unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K, K: rules[half].call, Jf: 1},
		{Code: unix.BPF_JMP | unix.BPF_JA, K: uint32(len(lower))},
	}, lower, search(rules[half:], otherwise))
}

// Install puts the filter, with the verdict on all other calls, on all threads
// of this process, for good. It needs no_new_privs.
func (f *Filter) Install(otherwise unix.SockFilter) error {
	if auditArch == 0 {
		return fmt.Errorf("cannot filter system calls on %s", runtime.GOARCH)
	}
	program, err := f.program(otherwise)
	if err != nil {
		return err
	}
	fprog := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	result, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&fprog)))
	if errno != 0 {
		return fmt.Errorf("cannot filter system calls: %w", errno)
	}
	if result != 0 {
		return errors.New("cannot filter system calls: a thread has another filter")
	}
	return nil
}
