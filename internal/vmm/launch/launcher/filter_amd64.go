package launcher

import "golang.org/x/sys/unix"

// What newer calls have replaced, which is there on this architecture.
var (
	archDenied = []uint32{
		unix.SYS_CHMOD, unix.SYS_CHOWN, unix.SYS_LCHOWN, unix.SYS_UTIME, unix.SYS_UTIMES, unix.SYS_FUTIMESAT,
		unix.SYS_LINK, unix.SYS_SYMLINK, unix.SYS_RENAME, unix.SYS_MKDIR, unix.SYS_RMDIR, unix.SYS_MKNOD,
		unix.SYS_KEXEC_FILE_LOAD, unix.SYS_IOPL, unix.SYS_IOPERM,
	}
	archForks = []uint32{unix.SYS_FORK, unix.SYS_VFORK}
)
