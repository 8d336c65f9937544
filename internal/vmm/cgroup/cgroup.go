// Package cgroup bounds what processes take of the host's memory and threads,
// each in a cgroup of its own. All are in one of systemd's, a scope, and so is
// the process that makes them: systemd, the user's own or root's, removes it
// with all in it when the last process there has ended. A crash leaves nothing.
package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/confine"
	"banger/internal/vmm/process"
)

const layerName = "cgroup"

// Limits of a cgroup.
type Limits struct {
	MemoryBytes uint64
	Threads     uint64
}

const (
	// timeout bounds all that is asked of systemd, which takes milliseconds,
	// and poll is between two looks whether it has done it.
	timeout, poll = 10 * time.Second, 5 * time.Millisecond
	// ownLeaf is the cgroup in the scope for this process.
	ownLeaf = "bangerd"
	// leafPrefix begins the names of all others.
	leafPrefix = "vm-"
)

// Scope is the scope around this process. Make it with [New]; nil is one
// that cannot be had.
type Scope struct {
	log *slog.Logger

	mu       sync.Mutex
	answered chan struct{} // nil until systemd is asked, closed when the rest is set
	dir      string
	err      error // why there is none
}

// New asks for a scope, and does not wait for it: the first [Scope.Start] does.
func New(ctx context.Context, log *slog.Logger) *Scope {
	s := &Scope{log: log}
	go func() {
		dir, err := s.get(ctx)
		log.InfoContext(ctx, "the scope for cgroups", "dir", dir, "error", err)
	}()
	return s
}

// Start starts a program in a cgroup of its own, and says whether that is so:
// where there can be none it starts all the same. name is a part of the
// cgroup's, which is removed when the program has ended.
func (s *Scope) Start(ctx context.Context, name string, limits Limits, command process.Command) (*process.Process, confine.Layer, error) {
	child, leaf, err := s.start(ctx, name, limits, command)
	if err == nil {
		detail := fmt.Sprintf("%d MiB of memory, %d threads (%s)", limits.MemoryBytes>>20, limits.Threads, leaf)
		return child, confine.Layer{Name: layerName, On: true, Detail: detail}, nil
	}
	layer := confine.Layer{Name: layerName, Detail: err.Error()}
	child, err = process.Start(command)
	return child, layer, err
}

// start has the process be in its leaf from its first instruction on.
func (s *Scope) start(ctx context.Context, name string, limits Limits, command process.Command) (*process.Process, string, error) {
	scope, err := s.get(ctx)
	if err != nil {
		return nil, "", err
	}
	leaf, err := makeLeaf(scope, name, limits)
	if err != nil {
		return nil, "", err
	}
	dir, err := os.Open(leaf)
	if err != nil {
		return nil, "", errors.Join(fmt.Errorf("cannot use a cgroup: %w", err), remove(leaf))
	}
	defer dir.Close()
	command.Cgroup = dir
	child, err := process.Start(command)
	if err != nil {
		return nil, "", errors.Join(err, remove(leaf))
	}
	go func() {
		<-child.Done()
		if err := remove(leaf); err != nil {
			s.log.WarnContext(ctx, "a cgroup is left", "error", err)
		}
	}()
	return child, filepath.Join(filepath.Base(scope), filepath.Base(leaf)), nil
}

// get returns the scope's directory, or fails when ctx ends. systemd is asked
// once; that there is none to ask may change.
func (s *Scope) get(ctx context.Context) (string, error) {
	if s == nil {
		return "", errors.New("none is asked for")
	}
	answered, err := s.ask(ctx)
	if err != nil {
		return "", err
	}
	select {
	case <-answered:
		return s.dir, s.err
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
}

// ask has systemd asked if it is not yet. What is returned is closed when it has
// answered, or has not in time.
func (s *Scope) ask(ctx context.Context) (<-chan struct{}, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.answered != nil {
		return s.answered, nil
	}
	address, err := thisManager()
	if err != nil {
		return nil, err
	}
	answered := make(chan struct{})
	s.answered = answered
	go func() {
		ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(ctx), timeout, errors.New("systemd does not answer"))
		defer cancel()
		s.dir, s.err = enter(ctx, address)
		close(answered)
	}()
	return answered, nil
}

// Check says whether this user's processes can be given cgroups. It does not
// try.
func Check() confine.Layer {
	layer := confine.Layer{Name: layerName, On: true, Detail: "limits of memory and threads, in a scope of systemd's"}
	if _, err := thisManager(); err != nil {
		layer.On, layer.Detail = false, err.Error()
	}
	return layer
}

// enter puts this process into a new scope and returns its directory. That of a
// bangerd before this one stays until the last process of its VMs has ended,
// which is no reason to go there: they are held where they are.
func enter(ctx context.Context, address string) (string, error) {
	// The pid alone may be that of such a bangerd.
	unit := fmt.Sprintf("banger-%d-%d.scope", os.Getpid(), time.Now().Unix())
	if err := startScope(ctx, address, unit); err != nil {
		return "", err
	}
	for {
		own, err := ownCgroup("/")
		if err != nil {
			return "", err
		}
		if filepath.Base(own) == unit {
			scope := filepath.Join("/sys/fs/cgroup", own)
			sweep(filepath.Dir(scope))
			return scope, settle(ctx, scope)
		}
		select {
		case <-ctx.Done():
			return "", fmt.Errorf("cannot get into the scope: %w", context.Cause(ctx))
		case <-time.After(poll):
		}
	}
}

// settle puts this process into a leaf of the scope, for a cgroup that has
// processes can hold no others to limits, and has the scope do so from now on.
func settle(ctx context.Context, scope string) error {
	leaf := filepath.Join(scope, ownLeaf)
	if err := os.Mkdir(leaf, 0o700); err != nil {
		return fmt.Errorf("cannot make a cgroup: %w", err)
	}
	for {
		if err := move(scope, leaf); err != nil {
			return err
		}
		err := set(scope, "cgroup.subtree_control", "+memory +pids")
		if errors.Is(err, fs.ErrNotExist) {
			return errors.New("the controllers of memory and threads are not delegated to the user")
		}
		if !errors.Is(err, unix.EBUSY) {
			return err
		}
		// This process has just started another.
		select {
		case <-ctx.Done():
			return err
		case <-time.After(poll):
		}
	}
}

// move puts all processes of one cgroup into another.
func move(from, to string) error {
	pids, err := os.ReadFile(filepath.Join(from, "cgroup.procs"))
	if err != nil {
		return fmt.Errorf("cannot find the processes of a cgroup: %w", err)
	}
	for pid := range strings.FieldsSeq(string(pids)) {
		if err := set(to, "cgroup.procs", pid); err != nil && !errors.Is(err, unix.ESRCH) {
			return err
		}
	}
	return nil
}

// sweep removes what bangerds that were killed have left in their scopes: the
// leaves of processes that have ended since. Others cannot be removed.
func sweep(slice string) {
	scopes, _ := filepath.Glob(filepath.Join(slice, "banger-*.scope"))
	for _, scope := range scopes {
		// Leaves first: where there are any, their bangerd is in its own or has ended.
		leaves, _ := filepath.Glob(filepath.Join(scope, leafPrefix+"*"))
		if lives, err := os.ReadFile(filepath.Join(scope, ownLeaf, "cgroup.procs")); err != nil || len(lives) > 0 {
			continue
		}
		for _, leaf := range leaves {
			_ = unix.Rmdir(leaf)
		}
	}
}

// makeLeaf makes a cgroup in the scope: a new one for each process, since what
// has ended may be removed only after its VM runs again.
func makeLeaf(scope, name string, limits Limits) (string, error) {
	leaf, err := os.MkdirTemp(scope, leafPrefix+name+"-")
	if err != nil {
		return "", fmt.Errorf("cannot make a cgroup: %w", err)
	}
	err = errors.Join(
		set(leaf, "memory.max", strconv.FormatUint(limits.MemoryBytes, 10)),
		set(leaf, "pids.max", strconv.FormatUint(limits.Threads, 10)),
	)
	if err != nil {
		return "", errors.Join(err, remove(leaf))
	}
	return leaf, nil
}

func set(cgroup, name, value string) error {
	if err := os.WriteFile(filepath.Join(cgroup, name), []byte(value), 0o600); err != nil {
		return fmt.Errorf("cannot set up a cgroup: %w", err)
	}
	return nil
}

// remove removes a leaf whose process has ended, which the kernel may see a
// moment later.
func remove(leaf string) error {
	for pause := time.Millisecond; ; pause *= 2 {
		err := unix.Rmdir(leaf)
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.EBUSY) || pause > time.Second {
			return fmt.Errorf("cannot remove the cgroup %q: %w", leaf, err)
		}
		time.Sleep(pause)
	}
}
