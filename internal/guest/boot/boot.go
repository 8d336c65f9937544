// Package boot is the guest's first process: it runs as /init of the
// initramfs, puts the root together, starts the agent, and becomes the image's
// init.
//
// The tree of mounts, as the initramfs and so the agent sees it:
//
//	/                  the initramfs: this program, the modules
//	/disks/image       vda, the image, read only
//	/disks/overlay     vdb: upper, work, and what cannot lie on an overlay
//	/disks/work        vdc
//	/disks/modules     vdd, read only
//	/newroot           the overlay; moved over / for everybody but the agent
package boot

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/guest/rootfs"
)

// Where things are in the initramfs.
const (
	NewRoot     = "/newroot"
	ImageDisk   = "/disks/image"
	OverlayDisk = "/disks/overlay"
	WorkDisk    = "/disks/work"
	ModulesDisk = "/disks/modules"
)

// AgentName is argv[0] of the agent's process. systemd spares processes whose
// name begins with '@' when it kills everything at a shutdown.
const AgentName = "@banger-agent"

// FinalName is argv[0] of the guest's last program: systemd-shutdown runs
// /run/initramfs/shutdown, where the initramfs is.
const FinalName = "/shutdown"

// oldRoot is where systemd-shutdown puts the root that it leaves.
const oldRoot = "/oldroot"

// Lines on the link between the first process and the agent, its descriptor
// LinkFD.
const (
	LinkFD = 3
	// Mounted is sent to the agent when the root is there, followed by the
	// path of the image's init, which may be empty.
	Mounted = "mounted "
	// Configured is the agent's answer when init may start.
	Configured = "configured"
)

// NotifySocket is where the image's init says that it has finished booting, as
// sd_notify(3) has it. It is in the abstract namespace, so that it can be
// reached from any root.
const NotifySocket = "@banger/notify"

// Run boots the guest. It does not return: an error is printed on the console
// and ends the VM.
func Run() {
	err := run()
	fmt.Fprintf(os.Stderr, "\nbanger: cannot boot this guest: %v\n", err)
	// Reboot drops what the serial port has not sent yet.
	_ = unix.IoctlSetInt(int(os.Stderr.Fd()), unix.TCSBRK, 1)
	unix.Sync()
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART)
	select {}
}

func run() error {
	if err := mountKernel("/"); err != nil {
		return err
	}
	agent, link, err := startAgent()
	if err != nil {
		return err
	}
	if err := loadModules("/modules"); err != nil {
		return err
	}
	if err := prepareFinal("/"); err != nil {
		return fmt.Errorf("cannot prepare the shutdown: %w", err)
	}
	if err := mountRoot(); err != nil {
		return err
	}
	root, err := rootfs.Open(NewRoot)
	if err != nil {
		return err
	}
	initPath := findInit(root)
	if err := furnish(root, initPath); err != nil {
		return err
	}
	if IsSystemd(root, initPath) {
		if err := maskUnits(root); err != nil {
			return err
		}
	}
	if _, err := io.WriteString(link, Mounted+initPath+"\n"); err != nil {
		return fmt.Errorf("cannot talk to the agent: %w", err)
	}
	line, err := bufio.NewReader(link).ReadString('\n')
	if err != nil || strings.TrimSpace(line) != Configured {
		return fmt.Errorf("the agent has ended before the guest was configured: it said %q", line)
	}
	_ = root.Close()
	link.Close()
	if err := switchRoot(); err != nil {
		return err
	}
	if initPath == "" {
		return reap(agent)
	}
	env := append(os.Environ(), "NOTIFY_SOCKET="+NotifySocket)
	if err := unix.Exec(initPath, []string{initPath}, env); err != nil {
		return fmt.Errorf("cannot run %q: %w", initPath, err)
	}
	return nil
}

// prepareFinal makes what systemd-shutdown needs in the initramfs: the program,
// and the place for the root. It would make the latter itself, but has mounted
// the initramfs read-only by then; without it, newer ones do not get here.
func prepareFinal(initramfs string) error {
	if err := os.Symlink("init", filepath.Join(initramfs, FinalName)); err != nil {
		return err
	}
	return os.Mkdir(filepath.Join(initramfs, oldRoot), 0o755)
}

// startAgent starts this program again as the agent.
func startAgent() (pid int, link *os.File, err error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, nil, fmt.Errorf("cannot make a socket: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "agent"), os.NewFile(uintptr(pair[1]), "init")
	defer theirs.Close()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return 0, nil, err
	}
	defer null.Close()
	process, err := os.StartProcess("/proc/self/exe", []string{AgentName}, &os.ProcAttr{
		Dir: "/",
		// One CPU is enough to copy bytes, and waking another for each piece
		// costs several times as much, above all in emulation.
		Env:   []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "GOMAXPROCS=1"},
		Files: []*os.File{null, os.Stdout, os.Stderr, theirs},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	})
	if err != nil {
		return 0, nil, fmt.Errorf("cannot start the agent: %w", err)
	}
	return process.Pid, ours, nil
}

// inits are where images keep their init, in the kernel's order, with systemd
// itself for images that lack the link.
var inits = [...]string{"/sbin/init", "/etc/init", "/bin/init", "/lib/systemd/systemd", "/usr/lib/systemd/systemd"}

// findInit returns the image's init, empty if it has none.
func findInit(root *rootfs.FS) string {
	for _, name := range inits {
		if info, err := root.Stat(name); err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o111 != 0 {
			return name
		}
	}
	return ""
}

// IsSystemd says whether the image's init is systemd.
func IsSystemd(root *rootfs.FS, initPath string) bool {
	if initPath == "" {
		return false
	}
	base, err := root.Base(initPath)
	return err == nil && base == "systemd"
}

// switchRoot makes the new root this process' "/". The initramfs stays below
// it, seen by the agent alone.
func switchRoot() error {
	if err := unix.Chdir(NewRoot); err != nil {
		return fmt.Errorf("cannot enter the new root: %w", err)
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("cannot move the new root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("cannot change to the new root: %w", err)
	}
	return unix.Chdir("/")
}

// reap is the init of an image that has none: it takes orphans off the kernel
// until the agent has ended.
func reap(agent int) error {
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, 0, nil)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return fmt.Errorf("cannot wait for processes: %w", err)
		case pid == agent:
			return fmt.Errorf("the agent has ended with status %d", status.ExitStatus())
		}
	}
}

// poll calls check until it is true, with an error that says what was missing
// after a while.
func poll(what string, check func() bool) error {
	for deadline := time.Now().Add(deviceTimeout); !check(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			return fmt.Errorf("cannot find %s", what)
		}
	}
	return nil
}

// deviceTimeout bounds the wait for devices: their drivers may need a moment.
const deviceTimeout = 15 * time.Second
