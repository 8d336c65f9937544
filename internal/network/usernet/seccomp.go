package usernet

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// allowedCalls is what the Go runtime, sockets and the reading of a file need;
// those of one architecture alone are in seccomp_$GOARCH.go. Neither exec nor
// listen nor ptrace is among them.
var allowedCalls = []uint32{
	unix.SYS_READ, unix.SYS_WRITE, unix.SYS_FUTEX, unix.SYS_EPOLL_PWAIT, unix.SYS_RECVFROM, unix.SYS_SENDTO,
	unix.SYS_READV, unix.SYS_WRITEV, unix.SYS_PREAD64, unix.SYS_RECVMSG, unix.SYS_SENDMSG,
	unix.SYS_NANOSLEEP, unix.SYS_CLOCK_NANOSLEEP, unix.SYS_CLOCK_GETTIME, unix.SYS_CLOCK_GETRES, unix.SYS_GETTIMEOFDAY,
	unix.SYS_SCHED_YIELD, unix.SYS_SCHED_GETAFFINITY, unix.SYS_RESTART_SYSCALL, unix.SYS_MEMBARRIER,
	unix.SYS_CONNECT, unix.SYS_BIND, unix.SYS_SHUTDOWN, unix.SYS_CLOSE, unix.SYS_ACCEPT4, unix.SYS_FCNTL,
	unix.SYS_GETSOCKNAME, unix.SYS_GETPEERNAME, unix.SYS_GETSOCKOPT, unix.SYS_SETSOCKOPT,
	unix.SYS_EPOLL_CREATE1, unix.SYS_EPOLL_CTL, unix.SYS_EVENTFD2, unix.SYS_PIPE2,
	unix.SYS_OPENAT, unix.SYS_FSTAT, unix.SYS_LSEEK,
	unix.SYS_MMAP, unix.SYS_MUNMAP, unix.SYS_MPROTECT, unix.SYS_MREMAP, unix.SYS_MADVISE, unix.SYS_BRK, unix.SYS_MINCORE,
	unix.SYS_RT_SIGACTION, unix.SYS_RT_SIGPROCMASK, unix.SYS_RT_SIGRETURN, unix.SYS_SIGALTSTACK,
	unix.SYS_GETPID, unix.SYS_GETTID, unix.SYS_GETUID, unix.SYS_GETEUID, unix.SYS_GETGID, unix.SYS_GETEGID,
	unix.SYS_SET_ROBUST_LIST, unix.SYS_RSEQ, unix.SYS_GETRANDOM, unix.SYS_UNAME,
	unix.SYS_EXIT, unix.SYS_EXIT_GROUP,
}

// Offsets in struct seccomp_data. Only the low half of an argument is looked
// at, which is all that the kernel takes of these.
const (
	offsetCall = 0
	offsetArch = 4
	offsetArg0 = 16
)

// namespaces are the flags of clone that make some, and threads the one that
// makes no process.
const (
	namespaces = unix.CLONE_NEWNS | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC | unix.CLONE_NEWUSER | unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWCGROUP
	threads    = unix.CLONE_THREAD
)

// restrictSyscalls makes every other system call fail, in all threads.
func restrictSyscalls() error {
	if auditArch == 0 {
		return fmt.Errorf("cannot filter system calls on %s", runtime.GOARCH)
	}
	program := seccompProgram(uint32(os.Getpid()))
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

func seccompProgram(pid uint32) []unix.SockFilter {
	const (
		load  = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
		equal = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		set   = unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K
		ret   = unix.BPF_RET | unix.BPF_K
	)
	allow := unix.SockFilter{Code: ret, K: unix.SECCOMP_RET_ALLOW}
	deny := unix.SockFilter{Code: ret, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)}
	// when adds a body that is run for one system call, and must return.
	program := []unix.SockFilter{
		{Code: load, K: offsetArch},
		{Code: equal, K: auditArch, Jt: 1},
		{Code: ret, K: unix.SECCOMP_RET_KILL_PROCESS},
		{Code: load, K: offsetCall},
	}
	when := func(call uint32, body ...unix.SockFilter) {
		program = append(program, unix.SockFilter{Code: equal, K: call, Jf: uint8(len(body))})
		program = append(program, body...)
	}
	for _, call := range append(allowedCalls, archCalls...) {
		when(call, allow)
	}
	// The runtime interrupts its own threads.
	arg := unix.SockFilter{Code: load, K: offsetArg0}
	when(unix.SYS_TGKILL, arg, unix.SockFilter{Code: equal, K: pid, Jf: 1}, allow, deny)
	// No unix sockets: what listens on those trusts this user.
	when(unix.SYS_SOCKET, arg,
		unix.SockFilter{Code: equal, K: unix.AF_INET, Jt: 2},
		unix.SockFilter{Code: equal, K: unix.AF_INET6, Jt: 1},
		unix.SockFilter{Code: equal, K: unix.AF_NETLINK, Jf: 1},
		allow, deny)
	when(unix.SYS_CLONE, arg,
		unix.SockFilter{Code: set, K: namespaces, Jt: 2},
		unix.SockFilter{Code: set, K: threads, Jf: 1},
		allow, deny)
	// The C library then falls back to clone, whose flags can be seen.
	when(unix.SYS_CLONE3, unix.SockFilter{Code: ret, K: unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)})
	return append(program, deny)
}
