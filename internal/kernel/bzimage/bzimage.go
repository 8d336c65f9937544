// Package bzimage takes the kernel proper out of a Linux x86 boot image
// (bzImage, vmlinuz): the ELF file that VMMs without firmware start.
package bzimage

import (
	"bytes"
	"compress/gzip"
	"context"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"

	"banger/internal/xz"
)

// MaxELF is the largest kernel that [Extract] accepts, in bytes. Today's are
// some tens of MiB.
const MaxELF = 512 << 20

// Offsets in the setup header, Documentation/arch/x86/boot.rst of the kernel.
const (
	offsetSetupSects    = 0x1f1
	offsetMagic         = 0x202
	offsetVersion       = 0x206
	offsetPayloadOffset = 0x248
	offsetPayloadLength = 0x24c
	headerEnd           = 0x250

	headerMagic = "HdrS"
	// minVersion is the first protocol with the payload fields.
	minVersion = 0x0208
	sectorSize = 512
)

// Extract returns the uncompressed kernel of an image, or the image if it is
// that itself. The image may be hostile: at most limit bytes ([MaxELF] if limit
// is zero or more than that) are unpacked, and the result is a 64-bit x86 ELF
// file. For the compression xz the program of that name must be there.
func Extract(ctx context.Context, image []byte, limit int64) ([]byte, error) {
	if limit <= 0 || limit > MaxELF {
		limit = MaxELF
	}
	if bytes.HasPrefix(image, []byte(elf.ELFMAG)) {
		if err := checkELF(image); err != nil {
			return nil, fmt.Errorf("cannot use the kernel: %w", err)
		}
		return image, nil
	}
	payload, err := payload(image)
	if err != nil {
		return nil, fmt.Errorf("cannot read the kernel image: %w", err)
	}
	format, open := detect(payload)
	if open == nil {
		return nil, fmt.Errorf("cannot unpack the kernel: its compression, which begins with %q, is not supported", payload[:6])
	}
	// The payload ends with the length of what was packed (gzip's own end is
	// the same). It is only a hint here, since the image may lie.
	size := int64(binary.LittleEndian.Uint32(payload[len(payload)-4:]))
	kernel, err := unpack(ctx, payload, open, size, limit)
	if err != nil {
		return nil, fmt.Errorf("cannot unpack the kernel (%s): %w", format, err)
	}
	if err := checkELF(kernel); err != nil {
		return nil, fmt.Errorf("cannot use the unpacked kernel: %w", err)
	}
	return kernel, nil
}

// payload returns the compressed kernel within the image.
func payload(image []byte) ([]byte, error) {
	if len(image) < headerEnd {
		return nil, errors.New("it is too short for a setup header")
	}
	if string(image[offsetMagic:offsetMagic+4]) != headerMagic {
		return nil, errors.New("it has no setup header")
	}
	if version := binary.LittleEndian.Uint16(image[offsetVersion:]); version < minVersion {
		return nil, fmt.Errorf("its boot protocol %d.%02d is too old", version>>8, version&0xff)
	}
	setup := int64(image[offsetSetupSects])
	if setup == 0 {
		setup = 4
	}
	begin := (setup+1)*sectorSize + int64(binary.LittleEndian.Uint32(image[offsetPayloadOffset:]))
	length := int64(binary.LittleEndian.Uint32(image[offsetPayloadLength:]))
	if length < 8 || begin+length > int64(len(image)) {
		return nil, fmt.Errorf("its payload of %d bytes at %d does not lie within its %d bytes", length, begin, len(image))
	}
	return image[begin : begin+length], nil
}

// opener starts to unpack a payload.
type opener func(ctx context.Context, payload []byte) (io.Reader, error)

// detect finds out how a payload is compressed. It returns a nil opener for what
// is not known or not supported.
func detect(payload []byte) (format string, open opener) {
	for _, f := range []struct {
		name, magic string
		open        opener
	}{
		{"zstd", "\x28\xb5\x2f\xfd", openZstd},
		{"lz4", "\x02\x21\x4c\x18", openLZ4},
		{"gzip", "\x1f\x8b\x08", openGzip},
		{"xz", "\xfd7zXZ\x00", openXZ},
		{"none", elf.ELFMAG, func(_ context.Context, p []byte) (io.Reader, error) { return bytes.NewReader(p), nil }},
	} {
		if bytes.HasPrefix(payload, []byte(f.magic)) {
			return f.name, f.open
		}
	}
	return "", nil
}

// maxWindow bounds what a decoder may ask for its dictionary; kernels are
// packed with windows of up to 128 MiB (zstd -22 --ultra).
const maxWindow = 128 << 20

func openZstd(_ context.Context, payload []byte) (io.Reader, error) {
	decoder, err := zstd.NewReader(bytes.NewReader(trimSize(payload)), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderLowmem(true))
	if err != nil {
		return nil, err
	}
	return decoder.IOReadCloser(), nil
}

func openLZ4(_ context.Context, payload []byte) (io.Reader, error) {
	return lz4.NewReader(bytes.NewReader(trimSize(payload))), nil
}

func openGzip(_ context.Context, payload []byte) (io.Reader, error) {
	reader, err := gzip.NewReader(bytes.NewReader(payload))
	if err != nil {
		return nil, err
	}
	reader.Multistream(false)
	return reader, nil
}

// openXZ leaves the length that the kernel's build puts behind the payload.
func openXZ(ctx context.Context, payload []byte) (io.Reader, error) {
	return xz.NewReader(ctx, bytes.NewReader(payload), "--single-stream")
}

// trimSize drops the length that the kernel's build puts behind the payload,
// for formats whose reader would take it for the beginning of another frame.
func trimSize(payload []byte) []byte { return payload[:len(payload)-4] }

// unpack reads all of a payload, which is expected to have size bytes and may
// not have more than limit.
func unpack(ctx context.Context, payload []byte, open opener, size, limit int64) ([]byte, error) {
	reader, err := open(ctx, payload)
	if err != nil {
		return nil, err
	}
	if closer, ok := reader.(io.Closer); ok {
		defer closer.Close()
	}
	var out bytes.Buffer
	// A size that is a lie costs no more than what the payload could be.
	out.Grow(int(min(size, limit, 16*int64(len(payload)))) + bytes.MinRead)
	if _, err := io.Copy(&out, io.LimitReader(reader, limit+1)); err != nil {
		return nil, err
	}
	if int64(out.Len()) > limit {
		return nil, fmt.Errorf("it has more than %d bytes", limit)
	}
	return out.Bytes(), nil
}

// checkELF refuses what is not a whole 64-bit x86 kernel.
func checkELF(kernel []byte) error {
	file, err := elf.NewFile(bytes.NewReader(kernel))
	if err != nil {
		return err
	}
	if file.Class != elf.ELFCLASS64 || file.Machine != elf.EM_X86_64 || file.Type != elf.ET_EXEC {
		return fmt.Errorf("it is a %v %v %v and not a 64-bit x86 executable", file.Class, file.Machine, file.Type)
	}
	loadable := 0
	for _, segment := range file.Progs {
		if segment.Type != elf.PT_LOAD {
			continue
		}
		loadable++
		if end := segment.Off + segment.Filesz; end < segment.Off || end > uint64(len(kernel)) {
			return errors.New("it is cut off: a segment lies beyond its end")
		}
	}
	if loadable == 0 {
		return errors.New("it has nothing to load")
	}
	return nil
}
