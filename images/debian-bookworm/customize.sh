# Runs in the new tree, once all packages and files are there.

# What makes a machine unique is given to each VM by banger.
rm -f /etc/ssh/ssh_host_* /etc/hostname /var/lib/dbus/machine-id /var/lib/systemd/random-seed
: >/etc/machine-id
ln -s /etc/machine-id /var/lib/dbus/machine-id
rm -f /etc/resolv.conf
: >/etc/resolv.conf
: >/etc/fstab
passwd --quiet --lock root
chmod 0700 /root
mkdir -p /usr/lib/modules

# A login prints nothing and runs nothing but the shell.
rm -f /etc/motd /etc/update-motd.d/* /etc/legal

cat >>/root/.bashrc <<'END'

# banger: the usual comforts
export LS_OPTIONS='--color=auto'
alias ls='ls $LS_OPTIONS' ll='ls $LS_OPTIONS -l' la='ls $LS_OPTIONS -la'
alias grep='grep --color=auto'
PS1='\[\e[1;32m\]\u@\h\[\e[0m\]:\[\e[1;34m\]\w\[\e[0m\]\$ '
HISTCONTROL=ignoreboth
shopt -s checkwinsize
if [ -r /usr/share/bash-completion/bash_completion ]; then . /usr/share/bash-completion/bash_completion; fi
END

# Docker is started by the first use of its socket.
systemctl --quiet disable docker.service containerd.service
systemctl --quiet enable docker.socket ssh.service
# Docker loads its own profile; those of packages are not worth their time.
systemctl --quiet mask apparmor.service
systemctl --quiet set-default multi-user.target

# The rest is about what a boot can leave out in a VM.

# Generators for what is not there: disks to decrypt, consoles to log in at,
# boot loaders, hibernation.
mkdir -p /etc/systemd/system-generators
for name in bless-boot cryptsetup debug getty gpt-auto hibernate-resume \
	integritysetup run system-update veritysetup; do
	ln -sf /dev/null "/etc/systemd/system-generators/systemd-$name-generator"
done

# Nobody logs in at a console, or is asked for a password there.
systemctl --quiet mask getty.target systemd-logind.service \
	systemd-user-sessions.service systemd-ask-password-console.path \
	systemd-ask-password-wall.path
ln -sf /dev/null /etc/tmpfiles.d/systemd-nologin.conf

# What waits for a first client need not run before; the bus starts by its
# socket, and systemd is asked without it.
rm -f /usr/lib/systemd/system/multi-user.target.wants/dbus.service
systemctl --quiet mask systemd-initctl.socket systemd-journald-audit.socket

# File systems: mounted by the agent, or not used. Message queues work without
# theirs. /dev is filled by systemd-tmpfiles-setup.service.
systemctl --quiet mask systemd-remount-fs.service systemd-pstore.service \
	systemd-tmpfiles-setup-dev.service dev-mqueue.mount \
	dev-hugepages.mount sys-kernel-debug.mount sys-kernel-tracing.mount \
	sys-kernel-config.mount sys-fs-fuse-connections.mount \
	proc-sys-fs-binfmt_misc.automount
systemctl --quiet mask modprobe@configfs.service modprobe@dm_mod.service \
	modprobe@drm.service modprobe@efi_pstore.service modprobe@fuse.service \
	modprobe@loop.service kmod-static-nodes.service
rm -f /etc/modules-load.d/modules.conf
rm -rf /var/log/journal

# First boots, updates, identity: done by the image or by the agent.
systemctl --quiet mask systemd-firstboot.service systemd-sysusers.service \
	systemd-machine-id-commit.service systemd-random-seed.service \
	systemd-update-done.service systemd-hwdb-update.service \
	systemd-journal-catalog-update.service systemd-journal-flush.service \
	systemd-update-utmp.service systemd-update-utmp-runlevel.service \
	systemd-network-generator.service systemd-boot-system-token.service \
	systemd-repart.service ldconfig.service

# Housekeeping that a short-lived machine can do without.
systemctl --quiet mask apt-daily.timer apt-daily-upgrade.timer \
	dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service fstrim.timer

# Not /tmp or /var/cache/apt: mmdebstrap still needs its own files there, and
# empties both later. Without them it would clean the host's apt instead.
rm -rf /var/cache/debconf/*-old /var/lib/dpkg/*-old /var/log/*.log /var/log/apt
