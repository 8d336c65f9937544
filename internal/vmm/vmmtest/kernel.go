package vmmtest

import (
	"bytes"
	"encoding/binary"
	"os"
	"testing"
)

// WriteHaltedKernel writes the least that a VMM takes for a kernel: an ELF file
// with a note that says where to start, and a CPU that halts there.
func WriteHaltedKernel(tb testing.TB, path string) {
	tb.Helper()
	const (
		address             = 1 << 20
		headers, note, code = 64 + 2*56, 64 + 2*56, 64 + 2*56 + 20
		physicalEntry       = 18 // XEN_ELFNOTE_PHYS32_ENTRY
	)
	program := []byte{0xfa, 0xf4, 0xeb, 0xfd} // cli; again: hlt; jmp again
	var b bytes.Buffer
	put := func(values ...any) {
		for _, v := range values {
			if err := binary.Write(&b, binary.LittleEndian, v); err != nil {
				tb.Fatal(err)
			}
		}
	}
	put([]byte("\x7fELF\x02\x01\x01"), make([]byte, 9))    // 64 bits, little endian
	put(uint16(2), uint16(62), uint32(1), uint64(address)) // executable for x86-64, entry
	put(uint64(64), uint64(0), uint32(0))                  // program headers follow
	put(uint16(64), uint16(56), uint16(2), [3]uint16{})    // two of them
	size := uint64(len(program))
	put(uint32(1), uint32(5), uint64(code), [2]uint64{address, address}, size, size, uint64(1)) // load
	put(uint32(4), uint32(4), uint64(note), [2]uint64{0, 0}, [2]uint64{20, 20}, uint64(4))      // note
	if b.Len() != headers {
		tb.Fatalf("headers of %d bytes", b.Len())
	}
	put(uint32(4), uint32(4), uint32(physicalEntry), []byte("Xen\x00"), uint32(address))
	put(program)
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		tb.Fatal(err)
	}
}
