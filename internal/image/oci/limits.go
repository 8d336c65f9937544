package oci

import (
	"errors"
	"fmt"
)

// What an image may have. They are far above what images have, and low enough
// for this host to live through one that was made to do harm.
const (
	// MaxSize bounds, in bytes, both the files of an image and what its layers
	// have when they are unpacked.
	MaxSize = 60 << 30
	// maxNodes bounds the files and directories that an image's layers make.
	maxNodes = 500_000
	// maxMemory bounds what is in memory of them while they become a file
	// system, in bytes: names and what is known of each. It is estimated, with
	// the costs below, which hold for both sides of the tar stream between.
	maxMemory = 96 << 20
	costFile  = 136
	costDir   = 300
	costName  = 3 // a byte
	costLink  = 64
	costXattr = 160
	// maxSmall is how much of that, in bytes, any number of images may take at
	// once: those of some 80,000 files. Those that take more take turns.
	maxSmall = 16 << 20
	// maxSteps bounds the work to find the places of entries, which links to
	// directories can blow up.
	maxSteps = 400_000_000
	// maxPath bounds names in archives, and paths in the image, in bytes.
	maxPath = 4096
	maxName = 255
	// maxXattrs bounds an entry's extended attributes: what fits into ext4.
	maxXattrs = 3 << 10
	// maxLinks is how many symbolic links lead to one place at most, as in
	// the kernel.
	maxLinks = 40
	// maxLayers, maxManifest and maxConfig bound what describes an image.
	maxLayers   = 512
	maxManifest = 8 << 20
	maxConfig   = 8 << 20
	// maxWindow bounds a zstd decoder's memory, of which several are at work.
	// `zstd -19`, and what builders of images use, stay below.
	maxWindow = 32 << 20
)

// ErrTooLarge is in the error chain when an image goes over a limit.
var ErrTooLarge = errors.New("the image is too large")

func tooLarge(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrTooLarge}, args...)...)
}
