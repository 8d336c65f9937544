package usernet

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"unsafe"

	"github.com/landlock-lsm/go-landlock/landlock"
	ll "github.com/landlock-lsm/go-landlock/landlock/syscall"
	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/psx"
)

// nobody is the user that does not own a file, by convention everywhere.
const nobody = 65534

// confine takes from this process everything but what it needs to carry
// traffic: it is what a hostile guest talks to. What this kernel or this
// user's place does not offer is logged; the rest holds without it.
func confine(log *slog.Logger, resolvConf string) error {
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("cannot turn core dumps off: %w", err)
	}
	readable, err := resolvConfPath(resolvConf)
	if err != nil {
		return err
	}
	if os.Geteuid() == 0 {
		if err := becomeNobody(); err != nil {
			log.Warn("cannot give up root", "error", err)
		}
	}
	// After the change of user, which sets it anew.
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("cannot protect memory from other processes: %w", err)
	}
	if err := dropCapabilities(); err != nil {
		return err
	}
	if _, _, errno := psx.Syscall6(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0); errno != 0 {
		return fmt.Errorf("cannot set no_new_privs: %w", errno)
	}
	if err := restrictFiles(readable); err != nil {
		return err
	}
	if _, err := ll.LandlockGetABIVersion(); err != nil {
		log.Warn("this kernel has no Landlock: file access is not restricted by it", "error", err)
	}
	if err := restrictSyscalls(); err != nil {
		log.Warn("cannot restrict system calls", "error", err)
	}
	return nil
}

// becomeNobody gives up root's files as well as root's powers. All threads
// change.
func becomeNobody() error {
	if err := syscall.Setgroups(nil); err != nil {
		return fmt.Errorf("cannot leave groups: %w", err)
	}
	if err := syscall.Setresgid(nobody, nobody, nobody); err != nil {
		return fmt.Errorf("cannot change to group %d: %w", nobody, err)
	}
	if err := syscall.Setresuid(nobody, nobody, nobody); err != nil {
		return fmt.Errorf("cannot change to user %d: %w", nobody, err)
	}
	return nil
}

func dropCapabilities() error {
	// The bounding set needs a privilege itself: without it there is nothing
	// to gain from an exec either, which no_new_privs forbids anyway.
	for capability := range uintptr(64) {
		if _, _, errno := psx.Syscall3(unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, capability, 0); errno != 0 {
			break
		}
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var none [2]unix.CapUserData
	_, _, errno := psx.Syscall3(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&none[0])), 0)
	if errno != 0 {
		return fmt.Errorf("cannot drop capabilities: %w", errno)
	}
	return nil
}

// resolvConfPath returns what has to stay readable so that the list of DNS
// servers can be read again when it changes: it is usually replaced by another
// file, so that the directory counts.
func resolvConfPath(path string) (string, error) {
	target, err := filepath.EvalSymlinks(path)
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("cannot find the list of DNS servers: %w", err)
	}
	dir := filepath.Dir(target)
	if dir == "/etc" || strings.HasPrefix(dir, "/run/") {
		return dir, nil
	}
	return target, nil
}

// restrictFiles leaves reading below one path, and no connection to abstract
// unix sockets nor signals to other processes.
func restrictFiles(readable string) error {
	config := landlock.V11.BestEffort()
	var rules []landlock.Rule
	if readable != "" {
		rules = append(rules, landlock.PathAccess(ll.AccessFSReadFile, readable))
	}
	if err := config.RestrictPaths(rules...); err != nil {
		return fmt.Errorf("cannot restrict file access: %w", err)
	}
	if err := config.RestrictScoped(); err != nil {
		return fmt.Errorf("cannot restrict signals: %w", err)
	}
	return nil
}
