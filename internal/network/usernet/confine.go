package usernet

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/landlock-lsm/go-landlock/landlock"
	ll "github.com/landlock-lsm/go-landlock/landlock/syscall"
	"golang.org/x/sys/unix"

	"banger/internal/confine"
)

// nobody is the user that does not own a file, by convention everywhere.
const nobody = 65534

// restrict takes from this process everything but what it needs to carry
// traffic: it is what a hostile guest talks to. What this kernel or this
// user's place does not offer is logged; the rest holds without it.
func restrict(log *slog.Logger, resolvConf string) error {
	if err := confine.NoCoreDumps(); err != nil {
		return err
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
	if err := errors.Join(confine.Process.DropCapabilities(), confine.Process.NoNewPrivileges()); err != nil {
		return err
	}
	var rules []landlock.Rule
	if readable != "" {
		rules = append(rules, landlock.PathAccess(ll.AccessFSReadFile, readable))
	}
	if err := confine.Process.RestrictFiles(rules...); err != nil {
		return err
	}
	if _, err := confine.LandlockABI(); err != nil {
		log.Warn("file access is not restricted", "error", err)
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
