package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"banger/internal/agent"
	"banger/internal/agent/mux"
	"banger/internal/agent/wire"
	"banger/internal/disk"
	"banger/internal/image/ext4"
	"banger/internal/kernel"
)

// packages are what the host of the lab has beyond the least of a Debian.
var packages = []string{
	"systemd", "systemd-sysv", "dbus", "libpam-systemd", "udev", "kmod", "iproute2", "procps", "e2fsprogs",
	"openssh-client", "git", "ca-certificates", "curl", "qemu-system-x86", "netbase", "util-linux",
}

// rootDisk returns the disk of the lab's host, built from the distribution's
// archive if cache does not have it yet.
func rootDisk(ctx context.Context, cache string) (string, error) {
	path := filepath.Join(cache, "lab-bookworm-1.ext4")
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	temporary := path + ".tmp"
	if err := os.Remove(temporary); err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	cmd := exec.CommandContext(ctx, "mmdebstrap", "--variant=minbase", "--quiet",
		"--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-exclude=/usr/share/locale/*", "--dpkgopt=path-exclude=/usr/share/man/*",
		"--include="+strings.Join(packages, ","), "bookworm", "-")
	cmd.Stderr = os.Stderr
	tar, err := cmd.StdoutPipe()
	if err != nil {
		return "", err
	}
	if err := cmd.Start(); err != nil {
		return "", fmt.Errorf("cannot build the lab's host: %w", err)
	}
	writeErr := ext4.Write(temporary, tar)
	if err := errors.Join(writeErr, cmd.Wait()); err != nil {
		return "", fmt.Errorf("cannot build the lab's host: %w", err)
	}
	return path, os.Rename(temporary, path)
}

// options describe a host to be started.
type options struct {
	cache    string // of what takes long to make
	dir      string // for this host's own files; its path is short
	kernels  *kernel.Store
	agent    string // the guests' agent's binary, which is this host's, too
	readOnly []string
	memory   int // MiB
}

// host is a running host of the lab: QEMU with banger's agent in it.
type host struct {
	agent   *agent.Client
	cmd     *exec.Cmd
	done    chan struct{}
	console string
	// What it has booted from, which its own guests can, too.
	vmlinux, initramfs string
}

// start boots a host.
func start(ctx context.Context, o options) (_ *host, err error) {
	list, err := o.kernels.List()
	if err != nil || len(list) == 0 {
		return nil, fmt.Errorf("cannot start the lab: there is no kernel: %w", err)
	}
	initramfs, err := o.kernels.Initramfs(ctx, list[0], o.agent)
	if err != nil {
		return nil, err
	}
	root, err := rootDisk(ctx, o.cache)
	if err != nil {
		return nil, err
	}
	overlay, work := filepath.Join(o.dir, "overlay"), filepath.Join(o.dir, "work")
	for _, path := range []string{overlay, work} {
		if err := disk.Create(ctx, path, 16<<30); err != nil {
			return nil, err
		}
	}
	h := &host{vmlinux: list[0].Vmlinux(), initramfs: initramfs, done: make(chan struct{}), console: filepath.Join(o.dir, "console.log")}
	socket := filepath.Join(o.dir, "agent.sock")
	args := []string{
		// The extended leaves that processors with svm have; "max" ends
		// before them, and Firecracker copies what it finds there.
		"-M", "q35", "-accel", "tcg,thread=multi,tb-size=512", "-cpu", "max,+svm,xlevel=0x8000001e,la57=off",
		// One CPU: KVM patches the kernel's code with each first and last VM,
		// and QEMU's emulation of several CPUs loses that now and then.
		"-smp", "1", "-m", fmt.Sprintf("%dM", o.memory), "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-kernel", list[0].Vmlinux(), "-initrd", initramfs,
		"-append", "console=ttyS0 quiet reboot=t panic=-1 mitigations=off random.trust_cpu=on cryptomgr.notests",
		"-serial", "file:" + h.console,
		"-device", "virtio-serial-pci", "-chardev", "socket,id=agent,server=on,wait=off,path=" + socket,
		"-device", "virtserialport,nr=1,chardev=agent,name=" + wire.SerialPort,
		"-device", "virtio-rng-pci",
	}
	add := func(path, more string) {
		id := fmt.Sprintf("d%d", len(args))
		args = append(args, "-drive", "if=none,format=raw,id="+id+",file="+path+more, "-device", "virtio-blk-pci,drive="+id)
	}
	add(root, ",readonly=on")
	add(overlay, ",cache=unsafe")
	add(work, ",cache=unsafe")
	add(list[0].ModulesDisk(), ",readonly=on")
	for _, path := range o.readOnly {
		add(path, ",snapshot=on")
	}
	h.cmd = exec.CommandContext(ctx, "qemu-system-x86_64", args...)
	h.cmd.Stdout, h.cmd.Stderr = os.Stderr, os.Stderr
	if err := h.cmd.Start(); err != nil {
		return nil, fmt.Errorf("cannot start the lab: %w", err)
	}
	go func() {
		_ = h.cmd.Wait()
		close(h.done)
	}()
	defer func() {
		if err != nil {
			h.stop()
		}
	}()
	session, err := h.connect(ctx, socket)
	if err != nil {
		return nil, err
	}
	h.agent = agent.New(session.Open)
	return h, h.agent.Configure(ctx, wire.Configuration{
		Hostname: "lab", MachineID: "0123456789abcdef0123456789abcdef", Time: time.Now().UTC(),
	})
}

func (h *host) connect(ctx context.Context, socket string) (*mux.Session, error) {
	for {
		conn, err := new(net.Dialer).DialContext(ctx, "unix", socket)
		if err == nil {
			return mux.Client(ctx, conn)
		}
		select {
		case <-h.done:
			return nil, errors.New("cannot reach the lab: its QEMU ended")
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// stop ends the host at once.
func (h *host) stop() {
	_ = h.cmd.Process.Kill()
	<-h.done
}

// run runs a shell script in the host, and returns its exit status.
func (h *host) run(ctx context.Context, script string, stdin io.Reader, stdout, stderr io.Writer) (int, error) {
	p, err := h.agent.Exec(ctx, wire.ExecRequest{Args: []string{"sh", "-c", script}}, agent.Streams{Stdin: stdin, Stdout: stdout, Stderr: stderr})
	if err != nil {
		return 0, err
	}
	exit, err := p.Wait()
	return exit.Code, err
}

// put writes a program into the host.
func (h *host) put(ctx context.Context, from, to string) error {
	file, err := os.Open(from)
	if err != nil {
		return err
	}
	defer file.Close()
	code, err := h.run(ctx, "mkdir -p $(dirname "+to+") && cat > "+to+" && chmod 0755 "+to, file, io.Discard, os.Stderr)
	if err != nil || code != 0 {
		return fmt.Errorf("cannot put %q into the lab: status %d: %w", from, code, err)
	}
	return nil
}

func newKernels(state, cache string) *kernel.Store {
	return kernel.New(kernel.Options{Dir: filepath.Join(state, "kernels"), CacheDir: cache, Log: slog.New(slog.DiscardHandler)})
}
