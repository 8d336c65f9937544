package objects

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Usage is what an object takes on the disk, in bytes.
type Usage struct {
	// Private is what nothing else has: it would be free without the name.
	// Shared is the rest: all of it if the object has other names, else files
	// with other links, and blocks that files elsewhere have too.
	Private, Shared int64
	// Names are the object's other names, sorted.
	Names []string
}

// Usage measures the named object. Errors are as those of [Store.Get].
func (s *Store[M]) Usage(name string) (Usage, error) {
	object, err := s.Get(name)
	if err != nil {
		return Usage{}, err
	}
	names, err := s.names()
	if err != nil {
		return Usage{}, err
	}
	var usage Usage
	for _, other := range names {
		// What cannot be read means nothing.
		if ref, err := s.readReference(other); err == nil && other != name && ref.Digest == object.Digest {
			usage.Names = append(usage.Names, other)
		}
	}
	for _, part := range object.Parts {
		shared, err := sharedBytes(filepath.Join(object.Dir, filepath.FromSlash(part.Path)))
		if err != nil {
			return Usage{}, err
		}
		usage.Shared += shared
	}
	if len(usage.Names) > 0 {
		usage.Shared = object.Size
	}
	usage.Private = object.Size - usage.Shared
	return usage, nil
}

// sharedBytes is how much of what a file takes is also others'.
func sharedBytes(path string) (int64, error) {
	file, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return 0, err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, nil
	}
	taken := stat.Blocks * 512
	if stat.Nlink > 1 {
		return taken, nil
	}
	shared, err := sharedExtents(file, info.Size())
	return min(shared, taken), err
}

// What FS_IOC_FIEMAP of linux/fiemap.h takes: a head, and places for extents.
const (
	fiemap       = 0xc020660b
	fiemapHead   = 32
	fiemapExtent = 56
	fiemapCount  = 256

	fiemapSync   = 0x1 // what is not written yet has no place
	extentLast   = 0x1
	extentShared = 0x2000 // FIEMAP_EXTENT_SHARED
)

// sharedExtents sums up the file's blocks that are those of another file too.
// A file system that cannot tell has none.
func sharedExtents(file *os.File, size int64) (int64, error) {
	var shared int64
	request := make([]byte, fiemapHead+fiemapCount*fiemapExtent)
	ne := binary.NativeEndian
	for start := uint64(0); start < uint64(size); {
		clear(request)
		ne.PutUint64(request[0:], start)
		ne.PutUint64(request[8:], uint64(size)-start)
		ne.PutUint32(request[16:], fiemapSync)
		ne.PutUint32(request[24:], fiemapCount)
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, file.Fd(), fiemap, uintptr(unsafe.Pointer(&request[0])))
		switch {
		case errors.Is(errno, unix.EOPNOTSUPP), errors.Is(errno, unix.ENOTTY), errors.Is(errno, unix.EINVAL):
			return 0, nil
		case errno != 0:
			return 0, &os.PathError{Op: "map", Path: file.Name(), Err: errno}
		}
		mapped := int(ne.Uint32(request[20:]))
		if mapped == 0 {
			return shared, nil
		}
		for i := range min(mapped, fiemapCount) {
			extent := request[fiemapHead+i*fiemapExtent:]
			length, flags := ne.Uint64(extent[16:]), ne.Uint32(extent[40:])
			if flags&extentShared != 0 {
				shared += int64(length)
			}
			if flags&extentLast != 0 {
				return shared, nil
			}
			if next := ne.Uint64(extent) + length; next > start {
				start = next
			} else {
				return shared, nil // it does not go on
			}
		}
	}
	return shared, nil
}
