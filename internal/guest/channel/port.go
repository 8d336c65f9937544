package channel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// busyTimeout bounds the wait for the port's last user to be gone: the driver
// allows one at a time.
const busyTimeout = 10 * time.Second

// openPort opens the port and waits until the host has opened its end. The
// file reads EOF when the host has closed it.
func openPort(ctx context.Context, device string) (io.ReadWriteCloser, error) {
	file, err := openIdle(device)
	if err != nil {
		return nil, fmt.Errorf("cannot open the agent channel: %w", err)
	}
	if err := waitHost(ctx, file); err != nil {
		file.Close()
		return nil, fmt.Errorf("cannot wait for the host: %w", err)
	}
	return file, nil
}

func openIdle(device string) (*os.File, error) {
	for deadline := time.Now().Add(busyTimeout); ; time.Sleep(5 * time.Millisecond) {
		// O_NONBLOCK makes it the runtime's poller's, so that Close ends a Read.
		file, err := os.OpenFile(device, os.O_RDWR|unix.O_NONBLOCK, 0)
		if !errors.Is(err, unix.EBUSY) || time.Now().After(deadline) {
			return file, err
		}
	}
}

// waitHost waits until the file is not hung up. A port without its host is
// permanently readable (EOF) and hung up, so an ordinary poll would spin; an
// edge-triggered one sleeps until the driver says that something has changed.
func waitHost(ctx context.Context, file *os.File) error {
	epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(epoll) }()
	raw, err := file.SyscallConn()
	if err != nil {
		return err
	}
	var added error
	if err := raw.Control(func(fd uintptr) {
		event := &unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLOUT | unix.EPOLLET, Fd: int32(fd)}
		added = unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, int(fd), event)
	}); err != nil {
		return err
	}
	if added != nil {
		return added
	}
	// A cancelled ctx is the end of the agent, no need to hurry.
	const second = 1000
	events := make([]unix.EpollEvent, 1)
	for {
		n, err := unix.EpollWait(epoll, events, second)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
		if n > 0 && events[0].Events&unix.EPOLLHUP == 0 {
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
}
