package usernet

import "golang.org/x/sys/unix"

var archCalls = []uint32{unix.SYS_EPOLL_WAIT, unix.SYS_ARCH_PRCTL}
