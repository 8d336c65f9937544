package bzimage

import (
	"bytes"
	"compress/gzip"
	"debug/elf"
	"encoding/binary"
	"io"
	"os/exec"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
)

// testELF makes a kernel of one segment with size bytes.
func testELF(tb testing.TB, size int) []byte {
	tb.Helper()
	var b bytes.Buffer
	const headers = 64 + 56
	header := elf.Header64{
		Type: uint16(elf.ET_EXEC), Machine: uint16(elf.EM_X86_64), Version: 1, Entry: 0x1000000,
		Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 1, Shentsize: 64,
	}
	copy(header.Ident[:], elf.ELFMAG)
	header.Ident[elf.EI_CLASS] = byte(elf.ELFCLASS64)
	header.Ident[elf.EI_DATA] = byte(elf.ELFDATA2LSB)
	header.Ident[elf.EI_VERSION] = byte(elf.EV_CURRENT)
	segment := elf.Prog64{Type: uint32(elf.PT_LOAD), Off: headers, Filesz: uint64(size), Memsz: uint64(size), Paddr: 0x1000000}
	for _, part := range []any{header, segment} {
		if err := binary.Write(&b, binary.LittleEndian, part); err != nil {
			tb.Fatal(err)
		}
	}
	b.WriteString(strings.Repeat("kernel code.", size/12+1)[:size])
	return b.Bytes()
}

// wrap makes an image around a payload.
func wrap(payload []byte) []byte {
	const setupSects = 3
	image := make([]byte, (setupSects+1)*sectorSize+16)
	image[offsetSetupSects] = setupSects
	copy(image[offsetMagic:], headerMagic)
	binary.LittleEndian.PutUint16(image[offsetVersion:], 0x020f)
	binary.LittleEndian.PutUint32(image[offsetPayloadOffset:], 16)
	binary.LittleEndian.PutUint32(image[offsetPayloadLength:], uint32(len(payload)))
	return append(append(image, payload...), "what follows it"...)
}

// sized puts the length behind a payload, as the kernel's build does.
func sized(payload []byte, size int) []byte {
	return binary.LittleEndian.AppendUint32(payload, uint32(size))
}

// pack compresses data with a writer.
func pack(tb testing.TB, data []byte, open func(io.Writer) (io.WriteCloser, error)) []byte {
	tb.Helper()
	var b bytes.Buffer
	w, err := open(&b)
	if err != nil {
		tb.Fatal(err)
	}
	if _, err := w.Write(data); err != nil {
		tb.Fatal(err)
	}
	if err := w.Close(); err != nil {
		tb.Fatal(err)
	}
	return b.Bytes()
}

// payloads returns data in every format that can be written here.
func payloads(tb testing.TB, data []byte) map[string][]byte {
	tb.Helper()
	return map[string][]byte{
		"zstd": sized(pack(tb, data, func(w io.Writer) (io.WriteCloser, error) { return zstd.NewWriter(w) }), len(data)),
		"lz4": sized(pack(tb, data, func(w io.Writer) (io.WriteCloser, error) {
			lw := lz4.NewWriter(w)
			return lw, lw.Apply(lz4.LegacyOption(true))
		}), len(data)),
		"gzip": pack(tb, data, func(w io.Writer) (io.WriteCloser, error) { return gzip.NewWriter(w), nil }),
		"none": data,
	}
}

// xzPayload packs data as the kernel's build does; nil if there is no xz.
func xzPayload(tb testing.TB, data []byte) []byte {
	tb.Helper()
	if _, err := exec.LookPath("xz"); err != nil {
		return nil
	}
	cmd := exec.CommandContext(tb.Context(), "xz", "--check=crc32", "--x86", "--lzma2=dict=32MiB", "--stdout")
	cmd.Stdin = bytes.NewReader(data)
	packed, err := cmd.Output()
	if err != nil {
		tb.Fatal(err)
	}
	return sized(packed, len(data))
}

func TestExtract(t *testing.T) {
	t.Parallel()
	want := testELF(t, 1<<20)
	all := payloads(t, want)
	if payload := xzPayload(t, want); payload != nil {
		all["xz"] = payload
	}
	for format, payload := range all {
		t.Run(format, func(t *testing.T) {
			t.Parallel()
			got, err := Extract(t.Context(), wrap(payload), 0)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("got %d bytes, want %d; or they differ", len(got), len(want))
			}
			if _, err := Extract(t.Context(), wrap(payload), int64(len(want))); err != nil {
				t.Errorf("with a limit that just suffices: %v", err)
			}
			if _, err := Extract(t.Context(), wrap(payload), int64(len(want)-1)); err == nil || !strings.Contains(err.Error(), "more than") {
				t.Errorf("with a limit that is too low: %v", err)
			}
			if _, err := Extract(t.Context(), wrap(payload[:len(payload)/2]), 0); err == nil {
				t.Error("half a payload was taken")
			}
		})
	}
}

func TestExtractBombs(t *testing.T) {
	t.Parallel()
	zeros := make([]byte, 8<<20)
	all := payloads(t, zeros)
	if payload := xzPayload(t, zeros); payload != nil {
		all["xz"] = payload
	}
	for format, payload := range all {
		if format == "none" {
			continue
		}
		t.Run(format, func(t *testing.T) {
			t.Parallel()
			if _, err := Extract(t.Context(), wrap(payload), 1<<20); err == nil || !strings.Contains(err.Error(), "more than 1048576 bytes") {
				t.Errorf("Extract: %v", err)
			}
		})
	}
}

func TestExtractRefuses(t *testing.T) {
	t.Parallel()
	kernel := testELF(t, 100)
	edit := func(change func(image []byte)) []byte {
		image := wrap(kernel)
		change(image)
		return image
	}
	editELF := func(change func(kernel []byte)) []byte {
		k := bytes.Clone(kernel)
		change(k)
		return wrap(k)
	}
	tests := map[string]struct {
		image []byte
		want  string
	}{
		"empty":                {nil, "too short"},
		"short":                {make([]byte, headerEnd-1), "too short"},
		"no header":            {make([]byte, 4096), "no setup header"},
		"old protocol":         {edit(func(b []byte) { b[offsetVersion] = 7; b[offsetVersion+1] = 2 }), "2.07 is too old"},
		"payload too long":     {edit(func(b []byte) { b[offsetPayloadLength+2] = 1 }), "does not lie within"},
		"payload's length max": {edit(func(b []byte) { copy(b[offsetPayloadLength:], "\xff\xff\xff\xff") }), "does not lie within"},
		"payload's place max":  {edit(func(b []byte) { copy(b[offsetPayloadOffset:], "\xff\xff\xff\xff") }), "does not lie within"},
		"payload empty":        {edit(func(b []byte) { copy(b[offsetPayloadLength:], "\x00\x00\x00\x00") }), "does not lie within"},
		"compression unknown":  {wrap([]byte("\x89LZO\x00????")), "LZO"},
		"damaged xz":           {wrap([]byte("\xfd7zXZ\x00????")), "xz"},
		"32 bits":              {editELF(func(k []byte) { k[elf.EI_CLASS] = byte(elf.ELFCLASS32) }), "cannot use the unpacked kernel"},
		"another machine":      {editELF(func(k []byte) { k[18] = byte(elf.EM_AARCH64) }), "EM_AARCH64"},
		"a library":            {editELF(func(k []byte) { k[16] = byte(elf.ET_DYN) }), "ET_DYN"},
		"nothing to load":      {editELF(func(k []byte) { k[64] = byte(elf.PT_NOTE) }), "nothing to load"},
		"cut off":              {wrap(kernel[:len(kernel)-1]), "cut off"},
		"not ELF":              {wrap(payloads(t, []byte("not an ELF file at all"))["gzip"]), "cannot use the unpacked kernel"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := Extract(t.Context(), test.image, 0)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("Extract: %d bytes, %v; want an error with %q", len(got), err, test.want)
			}
		})
	}
}

func FuzzExtract(f *testing.F) {
	for _, payload := range payloads(f, testELF(f, 1000)) {
		f.Add(wrap(payload))
	}
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, image []byte) {
		const limit = 1 << 20
		kernel, err := Extract(t.Context(), image, limit)
		if err != nil {
			return
		}
		if len(kernel) > limit || !bytes.HasPrefix(kernel, []byte(elf.ELFMAG)) {
			t.Errorf("got %d bytes that begin with %q", len(kernel), kernel[:min(4, len(kernel))])
		}
	})
}
