// Package xztest makes what tests decompress.
package xztest

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"os/exec"
	"testing"
)

// Pack compresses data. Tests are skipped where there is no xz.
func Pack(tb testing.TB, data []byte, options ...string) []byte {
	tb.Helper()
	if _, err := exec.LookPath("xz"); err != nil {
		tb.Skip("SKIPPED: no xz")
	}
	cmd := exec.CommandContext(tb.Context(), "xz", append([]string{"--stdout", "--threads=1"}, options...)...)
	cmd.Stdin = bytes.NewReader(data)
	packed, err := cmd.Output()
	if err != nil {
		tb.Fatal(err)
	}
	return packed
}

// Greedy is [Pack] of what asks for a dictionary of 4 GiB.
func Greedy(tb testing.TB, data []byte) []byte {
	tb.Helper()
	packed := Pack(tb, data)
	// The header of the first block, behind that of the stream.
	header := packed[12:24]
	if !bytes.HasPrefix(header, []byte{2, 0, 0x21, 1}) {
		tb.Fatalf("the block begins with % x", header)
	}
	header[4] = 40
	binary.LittleEndian.PutUint32(header[8:], crc32.ChecksumIEEE(header[:8]))
	return packed
}
