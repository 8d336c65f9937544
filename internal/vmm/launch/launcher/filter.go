package launcher

import (
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"banger/internal/confine"
)

// deniedCalls are system calls that no VMM needs and that Landlock does not
// restrict, or that not every kernel's does: how to look into or at other
// processes, to make oneself another place to live in, or to change whose a
// file is. VMMs have filters of their own which leave them less; this one holds
// before those are on, and where they are not.
var deniedCalls = []uint32{
	unix.SYS_PTRACE, unix.SYS_PROCESS_VM_READV, unix.SYS_PROCESS_VM_WRITEV, unix.SYS_PROCESS_MADVISE, unix.SYS_KCMP,
	unix.SYS_PIDFD_OPEN, unix.SYS_PIDFD_GETFD, unix.SYS_PIDFD_SEND_SIGNAL, unix.SYS_RT_SIGQUEUEINFO, unix.SYS_RT_TGSIGQUEUEINFO,
	unix.SYS_UNSHARE, unix.SYS_SETNS, unix.SYS_CHROOT, unix.SYS_PIVOT_ROOT, unix.SYS_MOUNT, unix.SYS_UMOUNT2,
	unix.SYS_OPEN_TREE, unix.SYS_MOVE_MOUNT, unix.SYS_FSOPEN, unix.SYS_FSCONFIG, unix.SYS_FSMOUNT, unix.SYS_FSPICK, unix.SYS_MOUNT_SETATTR,
	unix.SYS_NAME_TO_HANDLE_AT, unix.SYS_OPEN_BY_HANDLE_AT, unix.SYS_FANOTIFY_INIT,
	unix.SYS_FCHMOD, unix.SYS_FCHMODAT, unix.SYS_FCHMODAT2, unix.SYS_FCHOWN, unix.SYS_FCHOWNAT, unix.SYS_UTIMENSAT,
	unix.SYS_SETXATTR, unix.SYS_LSETXATTR, unix.SYS_FSETXATTR, unix.SYS_REMOVEXATTR, unix.SYS_LREMOVEXATTR, unix.SYS_FREMOVEXATTR,
	unix.SYS_LINKAT, unix.SYS_SYMLINKAT, unix.SYS_RENAMEAT, unix.SYS_RENAMEAT2, unix.SYS_MKDIRAT, unix.SYS_MKNODAT,
	unix.SYS_ADD_KEY, unix.SYS_REQUEST_KEY, unix.SYS_KEYCTL,
	unix.SYS_BPF, unix.SYS_PERF_EVENT_OPEN, unix.SYS_USERFAULTFD,
	unix.SYS_IO_URING_SETUP, unix.SYS_IO_URING_ENTER, unix.SYS_IO_URING_REGISTER,
	unix.SYS_INIT_MODULE, unix.SYS_FINIT_MODULE, unix.SYS_DELETE_MODULE, unix.SYS_KEXEC_LOAD, unix.SYS_REBOOT,
	unix.SYS_SWAPON, unix.SYS_SWAPOFF, unix.SYS_ACCT, unix.SYS_QUOTACTL, unix.SYS_SYSLOG, unix.SYS_SETTIMEOFDAY, unix.SYS_CLOCK_SETTIME,
	unix.SYS_SHMGET, unix.SYS_MSGGET, unix.SYS_SEMGET,
}

// CallsLayer is the layer that they are.
const CallsLayer = "system calls"

// restrictSyscalls makes those fail, and what would reach other processes by a
// socket, for this process and what it becomes.
func restrictSyscalls(p Plan, started program) (confine.Layer, error) {
	layer := confine.Layer{Name: CallsLayer}
	filter := confine.NewFilter()
	for _, call := range slices.Concat(deniedCalls, archDenied) {
		filter.On(call, confine.Deny)
	}
	// Signals are for itself. Static programs have a C library that sends
	// them to its threads by tkill, which does not say whose they are.
	self := uint32(os.Getpid())
	for _, call := range []uint32{unix.SYS_KILL, unix.SYS_TGKILL} {
		filter.On(call, confine.Arg(0), confine.If(self, 0, 1), confine.Allow, confine.Deny)
	}
	// So are limits: of processor time others would end.
	filter.On(unix.SYS_PRLIMIT64, confine.Arg(0), confine.If(0, 1, 0), confine.If(self, 0, 1), confine.Allow, confine.Deny)
	if started.shared {
		filter.On(unix.SYS_TKILL, confine.Deny)
	}
	if !p.Grant.Internet {
		// Its own ends of streams, where others connect; what listens
		// elsewhere trusts this user. A stream cannot be sent to an address.
		const kind = 0xf // without flags
		filter.On(unix.SYS_CONNECT, confine.Deny)
		filter.On(unix.SYS_SOCKET,
			confine.Arg(0), confine.If(unix.AF_UNIX, 0, 4),
			confine.Arg(1), confine.Mask(kind), confine.If(unix.SOCK_STREAM, 0, 1),
			confine.Allow, confine.Deny)
	}
	if !started.script {
		// Threads only. The C library falls back to clone from clone3, whose
		// flags cannot be seen.
		filter.On(unix.SYS_CLONE, confine.Arg(0), confine.IfAny(confine.NewNamespaces, 2, 0), confine.IfAny(unix.CLONE_THREAD, 0, 1), confine.Allow, confine.Deny)
		filter.On(unix.SYS_CLONE3, confine.Fail(unix.ENOSYS))
		for _, call := range archForks {
			filter.On(call, confine.Deny)
		}
	}
	if err := filter.Install(confine.Allow); err != nil {
		layer.Detail = err.Error()
		return layer, nil
	}
	layer.On, layer.Detail = true, "no connections, no signals to or looks at other processes, no new processes, mounts or keys"
	return layer, nil
}
