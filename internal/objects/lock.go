package objects

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Lock order: a name, then the store. Nothing is waited for while the store is
// locked.

// lockName waits until the name's lock is this caller's, or ctx ends.
func (s *Store[M]) lockName(ctx context.Context, name string) (unlock func(), err error) {
	return lock(ctx, filepath.Join(s.dir, "locks", name))
}

// tryLockName is lockName without the wait: ok is false if another has it.
func (s *Store[M]) tryLockName(name string) (unlock func(), ok bool, err error) {
	return tryLock(filepath.Join(s.dir, "locks", name))
}

// lockStore is held while names and objects must fit together.
func (s *Store[M]) lockStore(ctx context.Context) (unlock func(), err error) {
	return lock(ctx, filepath.Join(s.dir, "lock"))
}

// lock polls, since a blocking flock cannot be canceled.
func lock(ctx context.Context, path string) (unlock func(), err error) {
	const longest = 200 * time.Millisecond
	for wait := time.Millisecond; ; wait = min(2*wait, longest) {
		unlock, ok, err := tryLock(path)
		if err != nil || ok {
			return unlock, err
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("cannot wait for the lock %q: %w", path, ctx.Err())
		case <-time.After(wait):
		}
	}
}

// tryLock locks the file, which is made if need be and never removed: who
// removes a lock file lets two others lock two different ones. The lock ends
// with the process at the latest.
func tryLock(path string) (unlock func(), ok bool, err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, false, fmt.Errorf("cannot create the directory: %w", err)
	}
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, false, fmt.Errorf("cannot open the lock: %w", err)
	}
	err = unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) || errors.Is(err, unix.EINTR) {
		return nil, false, file.Close()
	}
	if err != nil {
		return nil, false, errors.Join(fmt.Errorf("cannot lock %q: %w", path, err), file.Close())
	}
	return func() { file.Close() }, true, nil
}

// Lock waits until the lock file path is this caller's, or ctx ends. The file
// is made if need be, with its directory, and stays. The lock ends with the
// process at the latest.
func Lock(ctx context.Context, path string) (unlock func(), err error) { return lock(ctx, path) }

// TryLock is [Lock] without the wait: ok is false if another has it.
func TryLock(path string) (unlock func(), ok bool, err error) { return tryLock(path) }
