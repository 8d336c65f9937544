// Package process starts programs that outlive the one that started them, and
// finds them again after a restart without ever mistaking another process for
// them.
package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ErrGone is returned by [Open] when the process is no longer there, or when
// its pid belongs to another process by now.
var ErrGone = errors.New("the process is gone")

// Command is a program to be started.
type Command struct {
	Path string
	Args []string // without the program's name
	Dir  string
	// Env is the whole environment, in place of this process's own.
	Env []string
	// Log gets stdout and stderr; nil discards them. Stdin is empty.
	Log *os.File
	// Files are the program's descriptors from 3 on.
	Files []*os.File
	// OwnNetwork starts it in a user and a network namespace of its own, as
	// the user that it is, with CAP_NET_ADMIN there until it gives that up.
	OwnNetwork bool
	// Cgroup, if it is not nil, is the directory of the cgroup, of version 2, that
	// it is in from its first instruction on.
	Cgroup *os.File
}

// Process is one running or ended program. Its methods may be called from any
// goroutine.
type Process struct {
	identity Identity
	pidfd    *os.File
	done     chan struct{}
	closed   chan struct{}
	close    func() error
}

// Start runs a program in a session of its own: no signal meant for this
// process or its terminal reaches it, and it lives on when this process ends.
func Start(command Command) (*Process, error) {
	bootID, err := BootID()
	if err != nil {
		return nil, err
	}
	pidfd := -1
	cmd := &exec.Cmd{
		Path:        command.Path,
		Args:        append([]string{command.Path}, command.Args...),
		Dir:         command.Dir,
		Env:         append([]string{}, command.Env...), // not nil, which would mean our own
		ExtraFiles:  command.Files,
		SysProcAttr: &syscall.SysProcAttr{Setsid: true, PidFD: &pidfd},
	}
	if command.OwnNetwork {
		cmd.SysProcAttr.Cloneflags = unix.CLONE_NEWUSER | unix.CLONE_NEWNET
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: os.Geteuid(), HostID: os.Geteuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: os.Getegid(), HostID: os.Getegid(), Size: 1}}
		cmd.SysProcAttr.AmbientCaps = []uintptr{unix.CAP_NET_ADMIN}
	}
	if command.Cgroup != nil {
		cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(command.Cgroup.Fd())
	}
	if command.Log != nil {
		cmd.Stdout, cmd.Stderr = command.Log, command.Log
	}
	if err := cmd.Start(); err != nil {
		if command.OwnNetwork {
			err = namespaceError(err)
		}
		return nil, fmt.Errorf("cannot start %q: %w", command.Path, err)
	}
	pid := cmd.Process.Pid
	// From here on the pidfd alone stands for the child: it is reaped by watch.
	_ = cmd.Process.Release()
	if pidfd < 0 {
		// A kernel without pidfds (before 5.4); the child cannot have been
		// reaped, so the pid is still its own.
		_ = unix.Kill(pid, unix.SIGKILL)
		_, _ = unix.Wait4(pid, nil, 0, nil)
		return nil, fmt.Errorf("cannot watch %q: this kernel has no pidfd", command.Path)
	}
	stat, err := readStat(pid) // a zombie's can be read as well
	if err != nil {
		_ = unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0)
		_ = unix.Waitid(unix.P_PIDFD, pidfd, nil, unix.WEXITED, nil)
		_ = unix.Close(pidfd)
		return nil, err
	}
	return watch(Identity{PID: pid, StartTime: stat.startTime, BootID: bootID}, pidfd)
}

// Open finds a program started earlier, perhaps by another process. The error
// is [ErrGone] if it has ended.
func Open(identity Identity) (*Process, error) {
	bootID, err := BootID()
	if err != nil {
		return nil, err
	}
	if identity.BootID != bootID || identity.PID <= 0 {
		return nil, ErrGone
	}
	pidfd, err := unix.PidfdOpen(identity.PID, 0)
	if errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL) { // EINVAL: now a thread's id
		return nil, ErrGone
	}
	if err != nil {
		return nil, fmt.Errorf("cannot open process %d: %w", identity.PID, err)
	}
	// Looked at after the pidfd is held: what is read belongs to the process
	// held, or that one has ended since and the pidfd says so.
	stat, err := readStat(identity.PID)
	if err != nil || stat.startTime != identity.StartTime || stat.ended() {
		_ = unix.Close(pidfd)
		if err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, unix.ESRCH) {
			return nil, err
		}
		return nil, ErrGone
	}
	return watch(identity, pidfd)
}

// namespaceError says more of an error of the kernel's that says nothing.
func namespaceError(err error) error {
	switch {
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EUSERS):
		return fmt.Errorf("user.max_user_namespaces allows no more user namespaces: %w", err)
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("this host forbids user namespaces to ordinary users: %w", err)
	case errors.Is(err, unix.EINVAL):
		return fmt.Errorf("this kernel has no user namespaces: %w", err)
	}
	return err
}

func watch(identity Identity, pidfd int) (*Process, error) {
	// Non-blocking, so that the runtime's poller waits and not a thread.
	if err := unix.SetNonblock(pidfd, true); err != nil {
		_ = unix.Close(pidfd)
		return nil, fmt.Errorf("cannot watch process %d: %w", identity.PID, err)
	}
	file := os.NewFile(uintptr(pidfd), "pidfd")
	raw, err := file.SyscallConn()
	if err != nil {
		_ = file.Close()
		return nil, fmt.Errorf("cannot watch process %d: %w", identity.PID, err)
	}
	p := &Process{
		identity: identity, pidfd: file,
		done: make(chan struct{}), closed: make(chan struct{}),
	}
	p.close = sync.OnceValue(func() error {
		close(p.closed)
		return file.Close()
	})
	go func() {
		ended := false
		_ = raw.Read(func(fd uintptr) bool {
			ended = exited(int(fd))
			return ended
		})
		if ended {
			close(p.done)
		}
	}()
	return p, nil
}

// exited says whether a process has ended, and reaps it if it is our child.
func exited(pidfd int) bool {
	fds := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(fds, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n == 0 {
			return false
		}
		break
	}
	// ECHILD, for a process that was adopted, is as good as success.
	_ = unix.Waitid(unix.P_PIDFD, pidfd, nil, unix.WEXITED|unix.WNOHANG, nil)
	return true
}

// Identity says which process this is, for [Open].
func (p *Process) Identity() Identity { return p.identity }

// Done is closed when the process has ended, unless [Process.Close] came first.
func (p *Process) Done() <-chan struct{} { return p.done }

// Kill ends the process at once and waits until it is gone or ctx ends. It is
// idempotent.
func (p *Process) Kill(ctx context.Context) error { return p.kill(ctx, nil) }

// Cut is [Process.Kill] for who only wants to be sure that nothing of the process
// runs any more. What the kernel then still does to end it takes some 30 ms for
// one that had a VM on KVM, and its files and devices are in use until it is
// done.
func (p *Process) Cut(ctx context.Context) error {
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	return p.kill(ctx, tick.C)
}

// kill looks at each tick whether anything still runs.
func (p *Process) kill(ctx context.Context, tick <-chan time.Time) error {
	select {
	case <-p.done:
		return nil // closed as well, maybe
	default:
	}
	raw, err := p.pidfd.SyscallConn()
	if err != nil {
		return fmt.Errorf("cannot kill process %d: %w", p.identity.PID, err)
	}
	var killErr error
	err = raw.Control(func(fd uintptr) {
		killErr = unix.PidfdSendSignal(int(fd), unix.SIGKILL, nil, 0)
	})
	if err != nil {
		killErr = err
	}
	if killErr != nil && !errors.Is(killErr, unix.ESRCH) {
		return fmt.Errorf("cannot kill process %d: %w", p.identity.PID, killErr)
	}
	for {
		select {
		case <-p.done:
			return nil
		case <-p.closed:
			return fmt.Errorf("cannot wait for process %d: it was let go", p.identity.PID)
		case <-ctx.Done():
			return fmt.Errorf("cannot wait for process %d to end: %w", p.identity.PID, ctx.Err())
		case <-tick:
			if spent(p.identity.PID) {
				return nil
			}
		}
	}
}

// Close lets go of the process, which runs on.
func (p *Process) Close() error { return p.close() }

// errEnded is the cause of a context that ended with its process.
var errEnded = errors.New("the process ended")

// Context returns a ctx that ends with the process, too. stop lets go of it.
func (p *Process) Context(ctx context.Context) (_ context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	go func() {
		select {
		case <-p.done:
			cancel(errEnded)
		case <-ctx.Done():
		}
	}()
	return ctx, func() { cancel(nil) }
}
