// Package space tells whether file systems have room for what is to be written.
package space

import (
	"errors"
	"fmt"
	"syscall"

	"golang.org/x/sys/unix"

	"banger/internal/api"
	"banger/internal/size"
)

// Hint says what a user can do where there is too little.
const Hint = "free some space; 'banger image prune' says what it would free"

// Free is how many bytes the user can still write to the file system of path,
// which is there.
func Free(path string) (int64, error) {
	var stat unix.Statfs_t
	if err := unix.Statfs(path, &stat); err != nil {
		return 0, fmt.Errorf("cannot measure the free space of %q: %w", path, err)
	}
	return int64(stat.Bavail) * stat.Bsize, nil
}

// Need is an [api.Error] of [api.KindNoSpace] if fewer bytes are free.
func Need(path string, bytes int64) error {
	free, err := Free(path)
	if err != nil || free >= bytes {
		return err
	}
	// Rounded apart, so that they never look equal.
	message := fmt.Sprintf("%s has %d MiB free and %d MiB are needed", path, free/size.MiB, (bytes-1)/size.MiB+1)
	return &api.Error{Kind: api.KindNoSpace, Message: message, Hint: Hint}
}

// IsFull tells whether it is a full file system, or a user's quota of it, that
// an error comes from.
func IsFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}
