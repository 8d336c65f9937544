// Package confine takes powers away from the process it is called in, for good:
// what a hostile guest talks to needs few of them.
package confine

import (
	"fmt"
	"runtime"
	"syscall"
	"unsafe"

	"github.com/landlock-lsm/go-landlock/landlock"
	ll "github.com/landlock-lsm/go-landlock/landlock/syscall"
	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/psx"
)

// Layer is one way in which a process is confined, or is not.
type Layer struct {
	Name string `json:"name"`
	On   bool   `json:"on"`
	// Detail says what it does where it is on, and else why it is not.
	Detail string `json:"detail"`
}

// NoCoreDumps keeps memory from being written to a file.
func NoCoreDumps() error {
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("cannot turn core dumps off: %w", err)
	}
	return nil
}

// Subject is whose powers are taken away.
type Subject struct {
	call     func(number, a1, a2, a3, a4, a5, a6 uintptr) (r1, r2 uintptr, err syscall.Errno)
	restrict func(landlock.Config, ...landlock.Rule) error
}

var (
	// Process is this process, all of its threads.
	Process = Subject{call: psx.Syscall6, restrict: landlock.Config.Restrict}
	// Thread is the calling thread alone, for one that the goroutine is locked to
	// and that is about to become another program: the others end with that. It
	// takes a tenth of the time.
	Thread = Subject{call: unix.RawSyscall6, restrict: restrictThread}
)

// NoNewPrivileges makes setuid programs, and the like, ordinary ones.
func (s Subject) NoNewPrivileges() error {
	if _, _, errno := s.call(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0); errno != 0 {
		return fmt.Errorf("cannot set no_new_privs: %w", errno)
	}
	return nil
}

// SuspendCapabilities makes root an ordinary user, but one whose files root's
// are, until restore is called.
func (s Subject) SuspendCapabilities() (restore func() error, err error) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var had [2]unix.CapUserData
	if err := unix.Capget(&header, &had[0]); err != nil {
		return nil, fmt.Errorf("cannot get capabilities: %w", err)
	}
	none := had
	for i := range none {
		none[i].Effective = 0
	}
	if err := s.setCapabilities(none); err != nil {
		return nil, err
	}
	return func() error { return s.setCapabilities(had) }, nil
}

// DropCapabilities gives up what makes root more than a user.
func (s Subject) DropCapabilities() error {
	// The bounding set needs a privilege itself: without it there is nothing
	// to gain from an exec either, which no_new_privs forbids anyway.
	// Of this thread alone: it matters when that becomes another program.
	for capability := range uintptr(64) {
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, capability, 0, 0, 0); err != nil {
			break
		}
	}
	return s.setCapabilities([2]unix.CapUserData{})
}

func (s Subject) setCapabilities(to [2]unix.CapUserData) error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	// The compiler does not see that a call through a variable is given addresses:
	// the stack could move before the kernel reads there.
	var pinner runtime.Pinner
	defer pinner.Unpin()
	pinner.Pin(&header)
	pinner.Pin(&to)
	_, _, errno := s.call(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&to[0])), 0, 0, 0, 0)
	if errno != 0 {
		return fmt.Errorf("cannot drop capabilities: %w", errno)
	}
	return nil
}

// LandlockABI is the version of this kernel's Landlock, or why there is none.
func LandlockABI() (int, error) {
	version, err := ll.LandlockGetABIVersion()
	if err != nil {
		return 0, fmt.Errorf("this kernel has no Landlock, or it is turned off: %w", err)
	}
	return version, nil
}

// RestrictFiles leaves the access that rules give, and no signals to processes
// outside, nor connections to abstract unix sockets of theirs: as much of that
// as this kernel's Landlock knows.
func (s Subject) RestrictFiles(rules ...landlock.Rule) error {
	config := landlock.V11.BestEffort()
	config.HandledAccessNet = 0
	if err := s.restrict(config, rules...); err != nil {
		return fmt.Errorf("cannot restrict file access and signals: %w", err)
	}
	return nil
}

func restrictThread(config landlock.Config, rules ...landlock.Rule) error {
	fd, flags, err := config.NewRulesetFD(rules...)
	if err != nil || fd < 0 { // below: there is nothing to restrict
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	return ll.LandlockRestrictSelf(fd, flags)
}
