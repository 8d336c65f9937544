package lab

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"banger/internal/ext4"
)

// user is who uses the host: without sudo, in the group kvm, and with a
// service manager of its own that runs from the host's start.
const user = "dev"

// packages are what the host has beyond the least of a Debian.
var packages = []string{
	// An ordinary server.
	"systemd", "systemd-sysv", "systemd-resolved", "libpam-systemd", "dbus", "dbus-user-session", "udev", "kmod",
	"iproute2", "nftables", "netbase", "procps", "util-linux", "bsdutils", "sudo", "ca-certificates", "busybox-static",
	// What banger's documents ask for.
	"qemu-system-x86", "mmdebstrap", "debian-archive-keyring", "xz-utils", "uidmap", "e2fsprogs", "openssh-client", "git", "curl", "jq",
}

// customize is run with the root directory as $1.
const customize = `set -eu
chroot "$1" useradd --create-home --shell /bin/bash --groups kvm ` + user + `
mkdir -p "$1/var/lib/systemd/linger"
touch "$1/var/lib/systemd/linger/` + user + `"
echo 'LABEL=home /home ext4 defaults 0 2' >"$1/etc/fstab"
printf '%s\n' kvm_amd tun >"$1/etc/modules-load.d/lab.conf"
ln -sf ../run/systemd/resolve/stub-resolv.conf "$1/etc/resolv.conf"
# What only costs time here.
for unit in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service fstrim.timer \
	systemd-timesyncd.service getty@tty1.service serial-getty@ttyS0.service systemd-pstore.service systemd-binfmt.service; do
	ln -sf /dev/null "$1/etc/systemd/system/$unit"
done`

// rootDisk returns the disk with the host's root, built from the distribution's
// archive if cache does not have this one yet.
func rootDisk(ctx context.Context, cache string) (path string, err error) {
	args := []string{
		"--variant=minbase", "--quiet",
		"--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-exclude=/usr/share/locale/*", "--dpkgopt=path-exclude=/usr/share/man/*",
		"--include=" + strings.Join(packages, ","), "--customize-hook=" + customize, "bookworm", "-",
	}
	sum := sha256.Sum256([]byte(strings.Join(args, "\n")))
	path = filepath.Join(cache, "lab-"+hex.EncodeToString(sum[:6])+".ext4")
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	dir, err := os.MkdirTemp(cache, "run-")
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	temporary := filepath.Join(dir, "root.ext4")
	cmd := exec.CommandContext(ctx, "mmdebstrap", args...)
	cmd.Stderr = os.Stderr
	tar, err := cmd.StdoutPipe()
	if err != nil {
		return "", err
	}
	if err := cmd.Start(); err != nil {
		return "", fmt.Errorf("cannot build the lab's host: %w", err)
	}
	writeErr := ext4.Write(temporary, tar, ext4.MaxSize)
	// It ends only once all it says is read.
	_, copyErr := io.Copy(io.Discard, tar)
	if err := errors.Join(cmd.Wait(), writeErr, copyErr); err != nil {
		return "", fmt.Errorf("cannot build the lab's host: %w", err)
	}
	return path, os.Rename(temporary, path)
}
