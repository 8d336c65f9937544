package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"banger/internal/agent"
	"banger/internal/agent/mux"
	"banger/internal/agent/wire"
	"banger/internal/disk"
	"banger/internal/kernel"
)

// options describe a host to be started.
type options struct {
	dir        string // for this host's own files; its path is short
	kernel     kernel.Kernel
	initramfs  string
	root, home string // disks, neither of which is changed
	memory     int    // MiB
	counting   bool   // its clock counts instructions: see [TestSpeed]
	keep       bool   // running when this process ends
}

// host is a running host of the lab: QEMU with banger's agent in it.
type host struct {
	agent *agent.Client
	dir   string
	done  chan struct{} // closed when QEMU has ended
	stop  func()        // ends it at once
}

func (h *host) socket() string  { return filepath.Join(h.dir, "agent.sock") }
func (h *host) console() string { return filepath.Join(h.dir, "console.log") }

// start boots a host. It answers then, but has not settled.
func start(ctx context.Context, o options) (_ *host, err error) {
	overlay, work := filepath.Join(o.dir, "overlay"), filepath.Join(o.dir, "work")
	for _, path := range []string{overlay, work} {
		if err := disk.Create(ctx, path, 16<<30); err != nil {
			return nil, err
		}
	}
	h := &host{dir: o.dir, done: make(chan struct{})}
	args := []string{"-accel", "tcg,thread=multi,tb-size=512"}
	if o.counting {
		args = []string{"-accel", "tcg,thread=single,tb-size=1024", "-icount", "shift=0,sleep=on"}
	}
	args = append(args,
		// The extended leaves that processors with svm have; "max" ends
		// before them, and Firecracker copies what it finds there. Without
		// fast string instructions, which emulation does byte by byte, a page
		// is cleared eight bytes at a time: nearer to what a processor does.
		"-M", "q35", "-cpu", "max,+svm,xlevel=0x8000001e,la57=off,erms=off,fsrm=off",
		// One CPU: KVM patches the kernel's code with each first and last VM,
		// and QEMU's emulation of several CPUs loses that now and then.
		"-smp", "1", "-m", fmt.Sprintf("%dM", o.memory), "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
		"-kernel", o.kernel.Vmlinux(), "-initrd", o.initramfs,
		"-append", "console=ttyS0 quiet reboot=t panic=-1 mitigations=off random.trust_cpu=on cryptomgr.notests",
		"-serial", "file:"+h.console(),
		"-device", "virtio-serial-pci", "-chardev", "socket,id=agent,server=on,wait=off,path="+h.socket(),
		"-device", "virtserialport,nr=1,chardev=agent,name="+wire.SerialPort,
		"-device", "virtio-rng-pci",
	)
	add := func(path, more string) {
		id := fmt.Sprintf("d%d", len(args))
		args = append(args, "-drive", "if=none,format=raw,id="+id+",file="+path+more, "-device", "virtio-blk-pci,drive="+id)
	}
	add(o.root, ",readonly=on")
	add(overlay, ",cache=unsafe")
	add(work, ",cache=unsafe")
	add(o.kernel.ModulesDisk(), ",readonly=on")
	add(o.home, ",snapshot=on")
	log, err := os.Create(filepath.Join(o.dir, "qemu.log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	cmd := exec.CommandContext(context.WithoutCancel(ctx), "qemu-system-x86_64", args...)
	cmd.Stdout, cmd.Stderr = log, log
	if !o.keep {
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("cannot start the lab's host: %w", err)
	}
	go func() {
		_ = cmd.Wait()
		close(h.done)
	}()
	h.stop = func() {
		_ = cmd.Process.Kill()
		<-h.done
	}
	if err := h.connect(ctx); err != nil {
		h.stop()
		said, _ := os.ReadFile(log.Name())
		return nil, fmt.Errorf("cannot reach the lab's host: %w; QEMU: %q", err, said)
	}
	return h, nil
}

// attach returns the host that a run before this one has left running in dir.
func attach(ctx context.Context, dir string) (*host, error) {
	h := &host{dir: dir, done: make(chan struct{}), stop: func() {}}
	if _, err := os.Stat(h.socket()); err != nil {
		return nil, err
	}
	return h, h.connect(ctx)
}

func (h *host) connect(ctx context.Context) error {
	for {
		conn, err := new(net.Dialer).DialContext(ctx, "unix", h.socket())
		if err == nil {
			session, err := mux.Client(ctx, conn)
			if err == nil {
				h.agent = agent.New(session.Open)
			}
			return err
		}
		select {
		case <-h.done:
			return errors.New("it has ended")
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// run runs a program in the host.
func (h *host) run(ctx context.Context, args []string, streams agent.Streams) (int, error) {
	p, err := h.agent.Exec(ctx, wire.ExecRequest{Args: args}, streams)
	if err != nil {
		return 0, err
	}
	exit, err := p.Wait()
	return exit.Code, err
}

// lost says why the host is none any more, or nothing: QEMU's emulation can
// lose it, which is nobody's fault in it.
func (h *host) lost(ctx context.Context) string {
	console, err := os.ReadFile(h.console())
	if err != nil {
		return err.Error()
	}
	for _, sign := range []string{"Kernel panic", "BUG: unable to handle", "kernel BUG at", "Oops", "general protection fault", "soft lockup"} {
		if bytes.Contains(console, []byte(sign)) {
			return "its console says " + sign
		}
	}
	select {
	case <-h.done:
		return "its QEMU ended"
	default:
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if _, err := h.agent.Hello(ctx); err != nil {
		return err.Error()
	}
	return ""
}
