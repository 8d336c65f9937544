package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/cavaliergopher/cpio"

	"banger/internal/image"
	"banger/internal/kernel"
	"banger/internal/ssh"
)

// Sizes of both sides' VMs.
const (
	benchVCPU      = 1
	benchMemoryMiB = 1024
)

const bareTimeout = 3 * time.Minute

// bareUp is what the guest says on its console when it has an address: a
// connection that is made before is tried again only after seconds.
const bareUp = "bare: up"

// bare is the least that it takes to boot the same guest by hand.
type bare struct {
	dir     string
	command []string
	port    int
}

// bareInit stands in for banger's agent. The writable layer is in memory,
// which is quicker than banger's disks.
const bareInit = `#!/bin/busybox sh
b=/bin/busybox
$b mount -t devtmpfs dev /dev
exec </dev/console >/dev/console 2>&1
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
for m in $($b cat /modules/list); do $b insmod /modules/$m; done
until [ -b /dev/vda ] && [ -b /dev/vdb ]; do $b sleep 0.01; done
$b mount -t ext4 -o ro /dev/vda /lower
$b mount -t tmpfs tmpfs /upper
$b mkdir /upper/data /upper/work
$b mount -t overlay -o lowerdir=/lower,upperdir=/upper/data,workdir=/upper/work overlay /newroot
$b mount -t ext4 -o ro /dev/vdb /newroot/usr/lib/modules
$b ip addr add 10.0.2.15/24 dev eth0
$b ip link set eth0 up
$b ip route add default via 10.0.2.2
echo %s
$b cp -a /files/. /newroot/
$b mount -o move /dev /newroot/dev
$b mount -o move /proc /newroot/proc
$b mount -o move /sys /newroot/sys
exec $b switch_root /newroot %s
`

func newBare(dir string, machine []string, krn kernel.Kernel, img image.Image) (*bare, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	key := filepath.Join(dir, "key")
	authorized, err := ssh.LoadOrCreateKey(key)
	if err != nil {
		return nil, err
	}
	hostKey, err := ssh.NewHostKey()
	if err != nil {
		return nil, err
	}
	initramfs, err := bareInitramfs(krn, img.Init, authorized, hostKey.Private, hostKey.Public)
	if err != nil {
		return nil, fmt.Errorf("cannot make the bare boot's initramfs: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "initramfs"), initramfs, 0o600); err != nil {
		return nil, err
	}
	b := &bare{dir: dir}
	if b.port, err = freePort(); err != nil {
		return nil, err
	}
	known := fmt.Sprintf("[127.0.0.1]:%d %s\n", b.port, hostKey.Public)
	if err := os.WriteFile(filepath.Join(dir, "known_hosts"), []byte(known), 0o600); err != nil {
		return nil, err
	}
	// What banger gives QEMU and the kernel, without what is banger's own.
	b.command = append([]string{"qemu-system-x86_64", "-no-user-config", "-nodefaults", "-no-reboot", "-display", "none"}, machine...)
	b.command = append(b.command,
		"-smp", strconv.Itoa(benchVCPU), "-m", fmt.Sprintf("%dM", benchMemoryMiB),
		"-kernel", krn.Vmlinux(), "-initrd", filepath.Join(dir, "initramfs"),
		"-serial", "file:"+b.console(),
		"-drive", "if=none,id=a,format=raw,readonly=on,file="+img.RootDisk(), "-device", "virtio-blk-device,drive=a",
		"-drive", "if=none,id=b,format=raw,readonly=on,file="+krn.ModulesDisk(), "-device", "virtio-blk-device,drive=b",
		"-object", "rng-builtin,id=rng", "-device", "virtio-rng-device,rng=rng",
		"-netdev", fmt.Sprintf("user,id=net,ipv6=off,hostfwd=tcp:127.0.0.1:%d-:22", b.port), "-device", "virtio-net-device,netdev=net",
	)
	return b, nil
}

// boot returns the time from QEMU's start to the exit status of ssh.
func (b *bare) boot(ctx context.Context) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, bareTimeout)
	defer cancel()
	if err := os.Remove(b.console()); err != nil && !errors.Is(err, os.ErrNotExist) {
		return 0, err
	}
	begun := time.Now()
	qemu := exec.CommandContext(ctx, b.command[0], b.command[1:]...)
	var said bytes.Buffer
	qemu.Stderr = &said
	if err := qemu.Start(); err != nil {
		return 0, err
	}
	err := b.answered(ctx)
	took := time.Since(begun)
	cancel() // kills it
	waitErr := qemu.Wait()
	if err != nil {
		console, readErr := os.ReadFile(b.console())
		return 0, errors.Join(fmt.Errorf("the bare boot: %w; QEMU: %w %s; console: %s", err, waitErr, said.String(), console), readErr)
	}
	return took, nil
}

// answered waits for sshd's greeting, then runs a command once.
func (b *bare) answered(ctx context.Context) error {
	for _, ready := range []func(context.Context) (bool, error){b.up, b.greets} {
		for {
			if ok, err := ready(ctx); ok {
				break
			} else if ctx.Err() != nil {
				return errors.Join(ctx.Err(), err)
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	ssh := exec.CommandContext(ctx, "ssh", "-F", "/dev/null", "-i", filepath.Join(b.dir, "key"), "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes",
		"-o", "UserKnownHostsFile="+filepath.Join(b.dir, "known_hosts"), "-p", strconv.Itoa(b.port), "root@127.0.0.1", "true")
	out, err := ssh.CombinedOutput()
	if err != nil {
		return fmt.Errorf("ssh: %w: %s", err, out)
	}
	return nil
}

func (b *bare) console() string { return filepath.Join(b.dir, "console") }

func (b *bare) up(context.Context) (bool, error) {
	console, err := os.ReadFile(b.console())
	return bytes.Contains(console, []byte(bareUp)), err
}

// greets says whether sshd answers. As long as nobody listens a connection ends
// at once; then the greeting takes its time on a busy machine, and to give up
// and ask again would only slow it down.
func (b *bare) greets(ctx context.Context) (bool, error) {
	const patience = 30 * time.Second
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", b.port))
	if err != nil {
		return false, err
	}
	defer conn.Close()
	if err := conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return false, err
	}
	greeting := make([]byte, 4)
	_, err = io.ReadFull(conn, greeting)
	return string(greeting) == "SSH-", err
}

func freePort() (int, error) {
	listener, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		return 0, err
	}
	return listener.Addr().(*net.TCPAddr).Port, listener.Close()
}

func bareInitramfs(krn kernel.Kernel, init, authorized, hostPrivate, hostPublic string) ([]byte, error) {
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		return nil, err
	}
	type file struct {
		name string
		mode cpio.FileMode
		data []byte
	}
	files := []file{{"init", 0o755, fmt.Appendf(nil, bareInit, bareUp, init)}, {"bin/busybox", 0o755, busybox}}
	var names []string
	for _, path := range krn.BootModules() {
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		names = append(names, filepath.Base(path))
		files = append(files, file{"modules/" + filepath.Base(path), 0o644, data})
	}
	files = append(files,
		file{"modules/list", 0o644, []byte(strings.Join(names, "\n") + "\n")},
		file{"files/root/.ssh/authorized_keys", 0o600, []byte(authorized + "\n")},
		file{"files/etc/ssh/ssh_host_ed25519_key", 0o600, []byte(hostPrivate)},
		file{"files/etc/ssh/ssh_host_ed25519_key.pub", 0o644, []byte(hostPublic + "\n")},
		file{"files/etc/hostname", 0o644, []byte("bare\n")},
		file{"files/etc/machine-id", 0o444, []byte("0123456789abcdef0123456789abcdef\n")},
	)
	var out bytes.Buffer
	w := cpio.NewWriter(&out)
	for _, dir := range []string{
		"dev", "proc", "sys", "bin", "modules", "lower", "upper", "newroot", "files", "files/etc", "files/etc/ssh",
	} {
		if err := w.WriteHeader(&cpio.Header{Name: dir, Mode: cpio.TypeDir | 0o755}); err != nil {
			return nil, err
		}
	}
	for _, dir := range []string{"files/root", "files/root/.ssh"} {
		if err := w.WriteHeader(&cpio.Header{Name: dir, Mode: cpio.TypeDir | 0o700}); err != nil {
			return nil, err
		}
	}
	for _, f := range files {
		if err := w.WriteHeader(&cpio.Header{Name: f.name, Mode: cpio.TypeReg | f.mode, Size: int64(len(f.data))}); err != nil {
			return nil, err
		}
		if _, err := w.Write(f.data); err != nil {
			return nil, err
		}
	}
	return out.Bytes(), w.Close()
}
