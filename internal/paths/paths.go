// Package paths says where banger keeps its files, following the XDG base
// directory specification. It reads the environment once, when asked, and
// creates nothing except in [Dirs.MakeRuntime] and [Dirs.MakeState]. It also says
// where banger's programs are.
package paths

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"syscall"
)

// Dirs are banger's directories. All are absolute.
type Dirs struct {
	Config  string // user's configuration: config.toml, ssh_config
	State   string // VMs, disks, images, kernels, keys, database, daemon's log
	Cache   string // what can be fetched or made again
	Runtime string // sockets and locks; private to the user
	Home    string
}

// New works the directories out from an environment as given by getenv.
func New(getenv func(string) string) (Dirs, error) {
	home := getenv("HOME")
	if !filepath.IsAbs(home) {
		return Dirs{}, fmt.Errorf("cannot find the home directory: $HOME is %q", home)
	}
	base := func(name, fallback string) string {
		// The specification says to ignore a relative path.
		if dir := getenv(name); filepath.IsAbs(dir) {
			return filepath.Join(dir, "banger")
		}
		return filepath.Join(home, fallback, "banger")
	}
	dirs := Dirs{
		Config: base("XDG_CONFIG_HOME", ".config"),
		State:  base("XDG_STATE_HOME", ".local/state"),
		Cache:  base("XDG_CACHE_HOME", ".cache"),
		Home:   home,
	}
	dirs.Runtime = filepath.Join(os.TempDir(), "banger-"+strconv.Itoa(os.Getuid()))
	if dir := getenv("XDG_RUNTIME_DIR"); filepath.IsAbs(dir) {
		dirs.Runtime = filepath.Join(dir, "banger")
	}
	return dirs, nil
}

// ConfigFile is what the user may write.
func (d Dirs) ConfigFile() string { return filepath.Join(d.Config, "config.toml") }

// SSHConfig is kept by bangerd for OpenSSH.
func (d Dirs) SSHConfig() string { return filepath.Join(d.Config, "ssh_config") }

// Database holds the VM records.
func (d Dirs) Database() string { return filepath.Join(d.State, "banger.db") }

// DaemonLog is where bangerd logs.
func (d Dirs) DaemonLog() string { return filepath.Join(d.State, "bangerd.log") }

// SSHKey is the key banger makes when none is configured.
func (d Dirs) SSHKey() string { return filepath.Join(d.State, "ssh", "id_ed25519") }

// KnownHosts holds the host keys of all VMs.
func (d Dirs) KnownHosts() string { return filepath.Join(d.State, "ssh", "known_hosts") }

// Images holds the image store.
func (d Dirs) Images() string { return filepath.Join(d.State, "images") }

// Kernels holds the kernel store.
func (d Dirs) Kernels() string { return filepath.Join(d.State, "kernels") }

// VM holds a VM's disks and logs.
func (d Dirs) VM(id string) string { return filepath.Join(d.State, "vms", id) }

// VMs holds one directory for each VM.
func (d Dirs) VMs() string { return filepath.Join(d.State, "vms") }

// Socket is where bangerd listens.
func (d Dirs) Socket() string { return filepath.Join(d.Runtime, "bangerd.sock") }

// Lock is held by the running bangerd.
func (d Dirs) Lock() string { return filepath.Join(d.Runtime, "bangerd.lock") }

// Run holds a running VM's sockets.
func (d Dirs) Run(id string) string { return filepath.Join(d.Runtime, "vm", id) }

// Error is a directory that banger does not use, and what to do about it.
type Error struct{ Message, Hint string }

func (e *Error) Error() string { return e.Message }

// Shim is the program that becomes a VMM, or a VM's network.
const Shim = "banger-shim"

// Program is a program of banger's own that users do not call, where `make
// install` puts it, or `make build`. executable is bangerd.
func Program(executable, name string) string {
	dir := filepath.Dir(executable)
	installed := filepath.Join(dir, "..", "lib", "banger", name)
	if _, err := os.Stat(installed); err == nil {
		return installed
	}
	return filepath.Join(dir, name)
}

// Missing says of an error with such a program, should it not be there, that it
// is to be installed.
func Missing(program string, err error) error {
	if _, statErr := os.Stat(program); !errors.Is(statErr, fs.ErrNotExist) {
		return err
	}
	return &Error{
		Message: fmt.Sprintf("%q is not there, which is a part of banger", program),
		Hint:    "install banger again",
	}
}

// Make creates the directories that bangerd needs: the runtime directory as
// [Dirs.MakeRuntime] does it, and the state directory as [Dirs.MakeState].
func (d Dirs) Make() error {
	if err := d.MakeRuntime(); err != nil {
		return err
	}
	return d.MakeState()
}

// maxSocketPath is what fits sun_path (unix(7): 108 bytes with the final NUL).
const maxSocketPath = 107

// longestSocket is the longest name below [Dirs.Runtime] that is bound.
const longestSocket = "vm/0123456789ab/network.sock"

// MakeRuntime creates the runtime directory, and refuses one that is not the
// user's own and private, or so deep that sockets in it could not be bound.
func (d Dirs) MakeRuntime() error {
	const what = "cannot use the runtime directory %q: "
	if n := len(filepath.Join(d.Runtime, longestSocket)); n > maxSocketPath {
		return &Error{
			Message: fmt.Sprintf(what+"socket paths in it would have %d bytes and at most %d are allowed", d.Runtime, n, maxSocketPath),
			Hint:    "set XDG_RUNTIME_DIR to a shorter path",
		}
	}
	if err := os.MkdirAll(d.Runtime, 0o700); err != nil {
		return &Error{
			Message: fmt.Sprintf("cannot create the runtime directory: %v", err),
			Hint:    "set XDG_RUNTIME_DIR to a directory of yours",
		}
	}
	info, err := os.Lstat(d.Runtime)
	if err != nil {
		return fmt.Errorf("cannot look at the runtime directory: %w", err)
	}
	if !info.IsDir() {
		return &Error{Message: fmt.Sprintf(what+"it is not a directory", d.Runtime), Hint: "remove it, or set XDG_RUNTIME_DIR to a directory of yours"}
	}
	if uid := owner(info); uid != os.Getuid() {
		return &Error{
			Message: fmt.Sprintf(what+"it belongs to uid %d, not to you (uid %d)", d.Runtime, uid, os.Getuid()),
			Hint:    "set XDG_RUNTIME_DIR to a directory of yours",
		}
	}
	if perm := info.Mode().Perm(); perm&0o077 != 0 {
		return &Error{
			Message: fmt.Sprintf(what+"others can enter it (mode %04o)", d.Runtime, perm),
			Hint:    fmt.Sprintf("chmod 0700 '%s'", d.Runtime),
		}
	}
	return nil
}

// MakeState creates the state directory, private to the user. One that others
// can enter is made private: it is banger's own, and there are keys in it.
func (d Dirs) MakeState() error {
	if err := os.MkdirAll(d.State, 0o700); err != nil {
		return &Error{
			Message: fmt.Sprintf("cannot create the state directory: %v", err),
			Hint:    "make it possible, or set XDG_STATE_HOME to a directory of yours",
		}
	}
	info, err := os.Stat(d.State)
	if err != nil {
		return fmt.Errorf("cannot look at the state directory: %w", err)
	}
	if uid := owner(info); uid != os.Getuid() {
		return &Error{
			Message: fmt.Sprintf("cannot use the state directory %q: it belongs to uid %d, not to you (uid %d)", d.State, uid, os.Getuid()),
			Hint:    "set XDG_STATE_HOME to a directory of yours",
		}
	}
	if info.Mode().Perm()&0o077 == 0 {
		return nil
	}
	if err := os.Chmod(d.State, 0o700); err != nil {
		return fmt.Errorf("cannot make the state directory private: %w", err)
	}
	return nil
}

func owner(info fs.FileInfo) int { return int(info.Sys().(*syscall.Stat_t).Uid) }
