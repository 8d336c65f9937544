package usernet

import (
	"os"

	"golang.org/x/sys/unix"

	"banger/internal/confine"
)

// allowedCalls is what the Go runtime, sockets and the reading of a file need;
// those of one architecture alone are in seccomp_*.go. Neither exec nor
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

// restrictSyscalls makes every other system call fail, in all threads.
func restrictSyscalls() error {
	filter := confine.NewFilter()
	for _, call := range append(allowedCalls, archCalls...) {
		filter.On(call, confine.Allow)
	}
	// The runtime interrupts its own threads.
	filter.On(unix.SYS_TGKILL, confine.Arg(0), confine.If(uint32(os.Getpid()), 0, 1), confine.Allow, confine.Deny)
	// No unix sockets: what listens on those trusts this user.
	filter.On(unix.SYS_SOCKET, confine.Arg(0),
		confine.If(unix.AF_INET, 2, 0), confine.If(unix.AF_INET6, 1, 0), confine.If(unix.AF_NETLINK, 0, 1),
		confine.Allow, confine.Deny)
	filter.On(unix.SYS_CLONE, confine.Arg(0),
		confine.IfAny(confine.NewNamespaces, 2, 0), confine.IfAny(unix.CLONE_THREAD, 0, 1),
		confine.Allow, confine.Deny)
	// The C library then falls back to clone, whose flags can be seen.
	filter.On(unix.SYS_CLONE3, confine.Fail(unix.ENOSYS))
	return filter.Install(confine.Deny)
}
