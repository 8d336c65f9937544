package disk

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestClone(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	source := filepath.Join(dir, "source")
	content := make([]byte, 3<<20)
	copy(content[1<<20:], "in the middle")
	content[len(content)-1] = 'x'
	if err := os.WriteFile(source, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	file, err := os.OpenFile(source, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	_, one := file.WriteAt(content[1<<20:1<<20+13], 1<<20)
	_, two := file.WriteAt([]byte("x"), 3<<20-1)
	if err := errors.Join(one, two); err != nil {
		t.Fatal(err)
	}
	target := filepath.Join(dir, "target")
	if err := Clone(t.Context(), file, int64(len(content)), target); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(target); err != nil || !bytes.Equal(got, content) {
		t.Errorf("another content, %v", err)
	}
	if used, err := Usage(target); err != nil || used > 1<<20 {
		t.Errorf("the holes take %d bytes, %v", used, err)
	}
	if err := Clone(t.Context(), file, 1, target); !errors.Is(err, os.ErrExist) {
		t.Errorf("onto a file: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Clone(ctx, file, 3<<20, filepath.Join(dir, "canceled")); err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err) // where blocks are shared there is nothing to cancel
	}
}

func TestCheck(t *testing.T) {
	t.Parallel()
	for _, tool := range []string{"mke2fs", "e2fsck", "debugfs"} {
		if _, err := FindTool(tool); err != nil {
			t.Skipf("needs e2fsprogs: %v", err)
		}
	}
	dir := t.TempDir()
	good := filepath.Join(dir, "good")
	if err := run(t.Context(), "mke2fs", "-q", "-F", "-t", "ext4", "-b", "1024", good, "4M"); err != nil {
		t.Fatal(err)
	}
	if err := Check(t.Context(), good); err != nil {
		t.Errorf("of a new one: %v", err)
	}
	if name, err := FirstIn(t.Context(), good, "/sbin/init", "/lost+found", "/"); err != nil || name != "/lost+found" {
		t.Errorf("found %q, %v", name, err)
	}
	whole, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	field := func(offset int, bits uint32) func([]byte) []byte {
		return func(data []byte) []byte {
			at := data[superblockAt+offset:]
			binary.LittleEndian.PutUint32(at, binary.LittleEndian.Uint32(at)^bits)
			return data
		}
	}
	for name, test := range map[string]struct {
		change func([]byte) []byte
		want   string
	}{
		"empty":         {func([]byte) []byte { return nil }, "no ext4"},
		"text":          {func([]byte) []byte { return bytes.Repeat([]byte("text"), 1<<10) }, "no ext4"},
		"mounted":       {field(sbIncompat, needsRecovery), "journal"},
		"not clean":     {field(sbState, stateClean), "not clean"},
		"with errors":   {field(sbState, stateBad), "not clean"},
		"odd features":  {field(sbIncompat, 1<<17), "features"},
		"long blocks":   {field(sbLogBlockSize, 4), "longer"},
		"half of it":    {func(data []byte) []byte { return data[:len(data)/2] }, "not whole"},
		"inodes zeroed": {func(data []byte) []byte { clear(data[16<<10 : 1<<20]); return data }, "damaged: e2fsck: exit status "},
	} {
		file := filepath.Join(dir, "bad "+name)
		if err := os.WriteFile(file, test.change(bytes.Clone(whole)), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := Check(t.Context(), file); err == nil || !strings.Contains(err.Error(), test.want) || strings.Contains(err.Error(), file) {
			t.Errorf("%s: %v, want %q and no name of a copy", name, err, test.want)
		}
	}
}

func TestFinding(t *testing.T) {
	t.Parallel()
	const path = "/store/x.tmp"
	for said, want := range map[string]string{
		"":             "",
		"it crashed\n": "it crashed",
		"e2fsck 1.47.0 (5-Feb-2023)\nPass 1: Checking inodes, blocks, and sizes\nPass 2: Checking directory structure\n" +
			"Entry 'init' in / (2) has deleted/unused inode 12.  Clear? no\n\nPass 3: Checking directory connectivity\n" +
			"Inode bitmap differences:  -12\nFix? no\n\n" + path + ": 17/1024 files (5.9% non-contiguous), 1332/4096 blocks\n": "Entry 'init' in / (2) has deleted/unused inode 12.",
		"e2fsck 1.47.0 (5-Feb-2023)\next2fs_open2: The ext2 superblock is corrupt\ne2fsck: Superblock invalid, trying backup blocks...\n": "ext2fs_open2: The ext2 superblock is corrupt",
		"e2fsck 1.47.0 (5-Feb-2023)\ne2fsck: Permission denied while trying to open " + path + "\n":                                       "e2fsck: Permission denied while trying to open " + path,
	} {
		if got := finding(said, path); got != want {
			t.Errorf("of %q: %q, want %q", said, got, want)
		}
	}
}

func FuzzSuperblock(f *testing.F) {
	f.Add(make([]byte, 1024), int64(1<<20))
	f.Fuzz(func(t *testing.T, block []byte, size int64) {
		if len(block) != 1024 || size < 0 {
			return
		}
		if checkSuperblock(block, size) == nil && size < 1024 {
			t.Error("nothing was taken for a file system")
		}
	})
}
