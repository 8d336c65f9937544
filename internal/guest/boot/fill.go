package boot

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"banger/internal/guest/rootfs"
	"banger/internal/guest/tree"
)

// filledMark is the extended attribute of a directory that has got what the
// image has in its place.
const filledMark = "trusted.banger.filled"

// bindFilled shows source at dir of the root. The first time, source gets what
// the image has there.
func bindFilled(root *rootfs.FS, source, dir string) error {
	_, err := unix.Getxattr(source, filledMark, nil)
	if errors.Is(err, unix.ENODATA) {
		err = fill(root, source, dir)
	}
	if err != nil {
		return fmt.Errorf("cannot prepare %s: %w", dir, err)
	}
	return bind(root, source, dir)
}

// fill copies what the root has at dir into source. It can be repeated after a
// crash in its middle.
func fill(root *rootfs.FS, source, dir string) error {
	from, err := root.Root(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		// The image has nothing there.
	case err != nil:
		return err
	default:
		defer from.Close()
		if err := copyTree(from, source); err != nil {
			return err
		}
	}
	// mke2fs makes it, fsck makes it again when it needs it.
	if err := os.Remove(source + "/lost+found"); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	file, err := os.Open(source)
	if err != nil {
		return err
	}
	defer file.Close()
	_, err = file.Readdirnames(1)
	switch {
	case errors.Is(err, io.EOF):
		// The journal keeps the order of all that was done to an empty
		// directory.
	case err != nil:
		return err
	default:
		// The mark must not get to the disk before the content of files.
		if err := unix.Syncfs(int(file.Fd())); err != nil {
			return err
		}
	}
	return unix.Fsetxattr(int(file.Fd()), filledMark, []byte("1"), 0)
}

func copyTree(from *os.Root, source string) error {
	to, err := os.OpenRoot(source)
	if err != nil {
		return err
	}
	defer to.Close()
	r, w := io.Pipe()
	go func() { w.CloseWithError(tree.Pack(from, ".", w)) }()
	err = tree.Unpack(to, r, true)
	_ = r.Close()
	return err
}

// grow makes a mounted ext4 as large as its device.
func grow(device, dir string) error {
	dev, err := os.Open(device)
	if err != nil {
		return err
	}
	defer dev.Close()
	size, err := dev.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	var super [1024]byte
	if _, err := dev.ReadAt(super[:], 1024); err != nil {
		return err
	}
	blocks, blockSize := superblock(&super)
	if want := uint64(size) / blockSize; want > blocks {
		mounted, err := os.Open(dir)
		if err != nil {
			return err
		}
		defer mounted.Close()
		return resize(mounted, want)
	}
	return nil
}

// superblock reads the size from ext4's superblock.
func superblock(b *[1024]byte) (blocks, blockSize uint64) {
	const (
		countLow, logSize, incompat, countHigh = 0x4, 0x18, 0x60, 0x150
		has64bit                               = 0x80
	)
	blocks = uint64(binary.LittleEndian.Uint32(b[countLow:]))
	if binary.LittleEndian.Uint32(b[incompat:])&has64bit != 0 {
		blocks |= uint64(binary.LittleEndian.Uint32(b[countHigh:])) << 32
	}
	// The kernel has mounted it: the logarithm makes sense.
	return blocks, 1024 << (binary.LittleEndian.Uint32(b[logSize:]) & 0xf)
}
