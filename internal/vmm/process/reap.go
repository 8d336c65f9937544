package process

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// listenTimeout is how long a VMM that has made its socket may take until it
// listens on it.
const listenTimeout = time.Second

// reapTimeout bounds the wait for the end of what was killed.
const reapTimeout = 10 * time.Second

// pollInterval is between two looks.
const pollInterval = 2 * time.Millisecond

// Reap kills the process that listens on the unix socket at path, if there is
// one, and waits for its end. It is for a start that was interrupted before
// anybody knew the process: only what answers there is taken for it.
func Reap(ctx context.Context, path string) error {
	deadline := time.Now().Add(listenTimeout)
	for {
		if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		conn, err := new(net.Dialer).DialContext(ctx, "unix", path)
		if err == nil {
			defer conn.Close()
			return killPeer(ctx, conn.(*net.UnixConn))
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil // removed since: another has seen to it
		}
		if ctx.Err() != nil || !errors.Is(err, unix.ECONNREFUSED) {
			return fmt.Errorf("cannot find out who has the socket %q: %w", path, err)
		}
		if time.Now().After(deadline) {
			return nil // what made it is gone
		}
		select {
		case <-ctx.Done():
		case <-time.After(pollInterval):
		}
	}
}

// killPeer kills the process that listens at the other end.
func killPeer(ctx context.Context, conn *net.UnixConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return fmt.Errorf("cannot find a VMM by its socket: %w", err)
	}
	pid, pidfd := 0, -1
	var failed error
	err = raw.Control(func(fd uintptr) {
		cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
		if err != nil {
			failed = err
			return
		}
		pid = int(cred.Pid)
		if pidfd, failed = unix.PidfdOpen(pid, 0); failed != nil {
			return
		}
		// The connection ends with the process. If it is still there, the
		// pid was not another's by the time it was opened.
		fds := []unix.PollFd{{Fd: int32(fd)}}
		if n, err := unix.Poll(fds, 0); err != nil || n > 0 && fds[0].Revents&(unix.POLLHUP|unix.POLLERR) != 0 {
			failed = errors.Join(err, unix.ESRCH)
			return
		}
		failed = unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0)
	})
	if pidfd >= 0 {
		defer func() { _ = unix.Close(pidfd) }()
	}
	if errors.Is(failed, unix.ESRCH) {
		return nil
	}
	if err := errors.Join(err, failed); err != nil {
		return fmt.Errorf("cannot kill the VMM with process %d: %w", pid, err)
	}
	ctx, cancel := context.WithTimeout(ctx, reapTimeout)
	defer cancel()
	for {
		fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
		if n, err := unix.Poll(fds, 0); err == nil && n > 0 {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("cannot wait for the VMM with process %d to end: %w", pid, ctx.Err())
		case <-time.After(pollInterval):
		}
	}
}
