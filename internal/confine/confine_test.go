package confine

import (
	"encoding/binary"
	"os"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// use takes room on the stack, so that it has to move, and fills it.
//
//go:noinline
func use(depth int, with byte) byte {
	var room [1024]byte
	for i := range room {
		room[i] = with
	}
	if depth > 0 {
		room[depth%len(room)] += use(depth-1, with)
	}
	return room[depth%len(room)]
}

// TestArgumentsStay has a call whose stack moves before the kernel is asked: what
// the arguments point to must not have been on it.
func TestArgumentsStay(t *testing.T) {
	t.Parallel()
	memory, err := os.Open("/proc/self/mem")
	if err != nil {
		t.Skipf("NOT TESTED: %v", err)
	}
	defer memory.Close()
	var version [4]byte
	subject := Subject{call: func(_, header, _, _, _, _, _ uintptr) (uintptr, uintptr, syscall.Errno) {
		use(100, 1)
		var others sync.WaitGroup
		for range 1000 { // where the stack was
			others.Go(func() { use(4, 0xff) })
		}
		others.Wait()
		if _, err := memory.ReadAt(version[:], int64(header)); err != nil {
			t.Error(err)
		}
		return 0, 0, 0
	}}
	done := make(chan error)
	go func() { done <- subject.setCapabilities([2]unix.CapUserData{}) }()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if got := binary.NativeEndian.Uint32(version[:]); got != unix.LINUX_CAPABILITY_VERSION_3 {
		t.Errorf("the kernel gets %#x", got)
	}
}
