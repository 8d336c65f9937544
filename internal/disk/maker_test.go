package disk

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"testing"
)

func TestMakerCopies(t *testing.T) {
	t.Parallel()
	needTools(t)
	dir := t.TempDir()
	var m Maker
	const size = 8 << 30
	var supers [3][1024]byte
	for i := range supers {
		path := filepath.Join(dir, string(rune('a'+i)))
		// The last is of another size, and no copy.
		if err := m.Create(t.Context(), path, size+int64(i/2)<<30, i%2 == 0); err != nil {
			t.Fatal(err)
		}
		check(t, path)
		if used, err := Usage(path); err != nil || used == 0 || used > 4<<20 {
			t.Errorf("a fresh disk takes %d bytes (%v), want at most 4 MiB", used, err)
		}
		file, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		if _, err := io.ReadFull(io.NewSectionReader(file, 1024, 1024), supers[i][:]); err != nil {
			t.Fatal(err)
		}
	}
	if supers[0] != supers[1] {
		t.Error("the second disk is no copy of the first")
	}
	if supers[0] == supers[2] {
		t.Error("a disk of another size is a copy")
	}
	if entries, err := os.ReadDir(dir); err != nil || len(entries) != len(supers) {
		t.Errorf("the directory holds %v (%v), want the disks only", entries, err)
	}
}

// TestNotRemembered has files that cannot be read: one without places, and one
// that is open for writing.
func TestNotRemembered(t *testing.T) {
	t.Parallel()
	pipe, end, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer pipe.Close()
	defer end.Close()
	unread, err := os.OpenFile(filepath.Join(t.TempDir(), "unread"), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer unread.Close()
	if _, err := unread.WriteString("text"); err != nil {
		t.Fatal(err)
	}
	for name, file := range map[string]*os.File{"pipe": pipe, "unread": unread} {
		if extents := extentsOf(file, 4); extents != nil {
			t.Errorf("%s: %v is remembered", name, extents)
		}
	}
}

func TestMakerIsBounded(t *testing.T) {
	t.Parallel()
	needTools(t)
	var m Maker
	for i := range int64(2 * maxSizes) {
		if err := m.Create(t.Context(), filepath.Join(t.TempDir(), "disk"), MinSize+i<<20, true); err != nil {
			t.Fatal(err)
		}
		if len(m.known) > maxSizes {
			t.Fatalf("%d sizes are remembered", len(m.known))
		}
	}
}

func TestExtents(t *testing.T) {
	t.Parallel()
	const size = 1 << 30
	write := func(parts map[int64][]byte) *os.File {
		t.Helper()
		file, err := os.Create(filepath.Join(t.TempDir(), "file"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = file.Close() })
		if err := file.Truncate(size); err != nil {
			t.Fatal(err)
		}
		for offset, data := range parts {
			if _, err := file.WriteAt(data, offset); err != nil {
				t.Fatal(err)
			}
		}
		return file
	}
	if got := extentsOf(write(nil), size); got != nil {
		t.Errorf("an empty file has %d extents", len(got))
	}
	// Two blocks in a row, one of zeros, one at the end.
	parts := map[int64][]byte{0: bytes.Repeat([]byte{1}, 2*blockSize), 2 * blockSize: make([]byte, blockSize), size - blockSize: bytes.Repeat([]byte{2}, blockSize)}
	got := extentsOf(write(parts), size)
	if len(got) != 2 || got[0].offset != 0 || !bytes.Equal(got[0].data, parts[0]) || got[1].offset != size-blockSize {
		t.Errorf("%d extents", len(got))
	}
	if got := extentsOf(write(map[int64][]byte{0: bytes.Repeat([]byte{1}, maxTemplate+blockSize)}), size); got != nil {
		t.Errorf("a file of too much has %d extents", len(got))
	}
}
