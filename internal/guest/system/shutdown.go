package system

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/agent/wire"
	"banger/internal/guest/boot"
)

const (
	// resend is the time between two requests to systemd, which does not
	// listen yet in its first moments.
	resend = time.Second
	// initGrace is how long an init other than systemd may take to end the
	// guest, before the agent does it.
	initGrace = 8 * time.Second
	// termGrace is between SIGTERM and SIGKILL for what runs in a guest
	// without an init.
	termGrace = 2 * time.Second
	// programTimeout bounds the call of poweroff or reboot.
	programTimeout = 5 * time.Second
)

// Signals that ask systemd for poweroff.target and reboot.target: SIGRTMIN+4
// and +5, by glibc's numbers.
const (
	systemdPowerOff = syscall.Signal(34 + 4)
	systemdReboot   = syscall.Signal(34 + 5)
)

// Shutdown writes everything to the disks and begins the guest's end.
func (s *System) Shutdown(_ context.Context, shutdown wire.Shutdown) error {
	unix.Sync()
	//nolint:contextcheck // the end of the request is not the end of the shutdown
	s.shutting.Do(func() { go s.end(shutdown.Reboot) })
	return nil
}

func (s *System) end(reboot bool) {
	if !s.Hello().Configured {
		finish(reboot) // nothing runs
		return
	}
	switch {
	case s.systemd:
		sig := systemdPowerOff
		if reboot {
			sig = systemdReboot
		}
		for {
			if err := syscall.Kill(1, sig); err != nil {
				s.log.Error("cannot signal init", "error", err)
			}
			time.Sleep(resend)
			if shuttingDown("/proc") {
				return // it ends with listenFinal
			}
		}
	case s.init != "":
		program := "/sbin/poweroff"
		if reboot {
			program = "/sbin/reboot"
		}
		if _, err := s.run(context.Background(), programTimeout, program); err == nil {
			time.Sleep(initGrace)
		}
	}
	killAll("/proc")
	finish(reboot)
}

// shuttingDown says whether systemd has got to its last program, which then
// becomes the guest's. Before it is "systemd" the first process is this
// program's own, "init", which must not be taken for that.
func shuttingDown(proc string) bool {
	name, err := os.ReadFile(filepath.Join(proc, "1", "comm"))
	// The kernel keeps 15 bytes of "systemd-shutdown".
	return err == nil && slices.Contains([]string{"systemd-shutdow", "shutdown"}, strings.TrimSpace(string(name)))
}

// killAll ends every process but the first and this one.
func killAll(proc string) {
	_ = syscall.Kill(-1, syscall.SIGTERM) // an error means that there is none
	for deadline := time.Now().Add(termGrace); others(proc) && time.Now().Before(deadline); {
		time.Sleep(10 * time.Millisecond)
	}
	_ = syscall.Kill(-1, syscall.SIGKILL)
}

// others says whether programs besides the first and this one run.
func others(proc string) bool {
	entries, err := os.ReadDir(proc)
	if err != nil {
		return false
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == 1 || pid == os.Getpid() {
			continue
		}
		// Kernel threads and the dead have no program.
		if _, err := os.Readlink(filepath.Join(proc, e.Name(), "exe")); err == nil {
			return true
		}
	}
	return false
}

// finish makes the writable disks consistent and ends the machine. Nothing
// writes any more, but the mounts are still there; made read-only, or else
// frozen, a file system needs no recovery.
func finish(reboot bool) {
	unix.Sync()
	for _, disk := range []string{boot.WorkDisk, boot.OverlayDisk} {
		if err := settle(disk); err != nil {
			fmt.Fprintf(os.Stderr, "banger: cannot settle %s: %v\n", disk, err)
		}
	}
	if err := unix.Reboot(howToEnd(reboot, "/proc/cmdline")); err != nil {
		fmt.Fprintf(os.Stderr, "banger: cannot end the guest: %v\n", err)
	}
}

// howToEnd is the argument of the call that ends the machine. Some machines
// are ended by a reboot only: the kernel's arguments say so.
func howToEnd(reboot bool, cmdline string) int {
	arguments, err := os.ReadFile(cmdline)
	if reboot || err == nil && slices.Contains(strings.Fields(string(arguments)), wire.PowerOffByReboot) {
		return unix.LINUX_REBOOT_CMD_RESTART
	}
	return unix.LINUX_REBOOT_CMD_POWER_OFF
}

// settleTimeout bounds the wait for the last writers: killed processes take a
// moment to be gone.
const settleTimeout = 500 * time.Millisecond

func settle(disk string) error {
	if _, err := os.Stat(disk); err != nil {
		return nil //nolint:nilerr // there is no such disk
	}
	var err error
	for deadline := time.Now().Add(settleTimeout); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		err = unix.Mount("", disk, "", unix.MS_REMOUNT|unix.MS_RDONLY, "")
		if !errors.Is(err, unix.EBUSY) {
			return err
		}
	}
	dir, err := os.Open(disk)
	if err != nil {
		return err
	}
	defer dir.Close()
	// FIFREEZE: _IOWR('X', 119, int)
	return unix.IoctlSetInt(int(dir.Fd()), 0xc0045877, 0)
}

// finalSocket is where the guest's last program tells the agent that all
// others are gone.
const finalSocket = "@banger/final"

// Words of the last program.
const (
	finalPowerOff = "poweroff"
	finalReboot   = "reboot"
)

// listenFinal waits for the last program in the background.
func (s *System) listenFinal() error {
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: finalSocket, Net: "unix"})
	if err != nil {
		return fmt.Errorf("cannot listen for the shutdown: %w", err)
	}
	go func() {
		for {
			conn, err := listener.AcceptUnix()
			if err != nil {
				s.log.Error("cannot listen for the shutdown", "error", err)
				return
			}
			s.final(conn)
			_ = conn.Close()
		}
	}()
	return nil
}

func (s *System) final(conn *net.UnixConn) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return
	}
	var peer *unix.Ucred
	var failed error
	err = raw.Control(func(fd uintptr) {
		peer, failed = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	// Anybody can connect.
	if err != nil || failed != nil || peer.Pid != 1 || peer.Uid != 0 {
		return
	}
	buf := make([]byte, 64)
	n, err := conn.Read(buf)
	if err != nil {
		return
	}
	finish(string(buf[:n]) == finalReboot)
}

// Final is the guest's last program, run by systemd-shutdown as process 1
// when everything else has been killed and unmounted; verb is its argument. It
// does not return unless the guest cannot be ended.
func Final(verb string) error {
	word := finalPowerOff
	if verb == "reboot" || verb == "kexec" {
		word = finalReboot
	}
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: finalSocket, Net: "unix"})
	if err == nil {
		defer func() { _ = conn.Close() }()
		if _, err = conn.Write([]byte(word)); err == nil {
			// The answer is the end.
			_, err = conn.Read(make([]byte, 1))
		}
	}
	// Without the agent the file systems are recovered at the next start.
	unix.Sync()
	return errors.Join(err, unix.Reboot(howToEnd(word == finalReboot, "/proc/cmdline")))
}
