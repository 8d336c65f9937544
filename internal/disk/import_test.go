package disk

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"math"
	"math/big"
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
	unreadable, err := os.OpenFile(source, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unreadable.Close()
	err = Clone(t.Context(), unreadable, int64(len(content)), filepath.Join(dir, "unread"))
	if err == nil || strings.Contains(err.Error(), "cannot write") || !strings.Contains(err.Error(), "read "+source) {
		t.Errorf("of what cannot be read: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Clone(ctx, file, 3<<20, filepath.Join(dir, "canceled")); err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err) // where blocks are shared there is nothing to cancel
	}
}

func TestCheck(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"mke2fs", "e2fsck", "debugfs"} {
		if _, err := findTool(name); err != nil {
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
		"dirdata":       {field(sbIncompat, 0x1000), "features"}, // Lustre's
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

func TestFirstProgramIn(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"mke2fs", "debugfs"} {
		if _, err := findTool(name); err != nil {
			t.Skipf("needs e2fsprogs: %v", err)
		}
	}
	tree := t.TempDir()
	at := func(name string) string { return filepath.Join(tree, name) }
	err := errors.Join(
		os.MkdirAll(at("usr/sbin"), 0o755), os.MkdirAll(at("etc/init"), 0o755), os.Symlink("usr/sbin", at("sbin")),
		os.WriteFile(at("program"), []byte("x"), 0o755), os.WriteFile(at("groups"), []byte("x"), 0o610), os.WriteFile(at("text"), []byte("x"), 0o644),
		os.Chmod(at("text"), 0o644|os.ModeSticky|os.ModeSetgid), os.Chmod(at("groups"), 0o610), // whatever the umask
		os.Symlink("../../program", at("usr/sbin/init")), os.Symlink("/program", at("absolute")), os.Symlink("init", at("etc/loop")),
		os.Symlink("loop", at("loop")), os.Symlink("nothing", at("dangling")), os.Symlink("text", at("no-program")),
		os.Symlink("/"+strings.Repeat("./", 100)+"program", at("slow")),
	)
	if err != nil {
		t.Fatal(err)
	}
	disk := filepath.Join(t.TempDir(), "disk")
	if err := run(t.Context(), "mke2fs", "-q", "-F", "-t", "ext4", "-b", "1024", "-d", tree, disk, "4M"); err != nil {
		t.Fatal(err)
	}
	no := []string{"/none", "/program/none", "/etc/init", "/etc/loop", "/", "/text", "/loop", "/dangling", "/no-program"}
	if name, err := FirstProgramIn(t.Context(), disk, no...); err != nil || name != "" {
		t.Errorf("found %q, %v", name, err)
	}
	for _, yes := range []string{"/program", "/groups", "/sbin/init", "/usr/sbin/init", "/absolute", "/slow"} {
		if name, err := FirstProgramIn(t.Context(), disk, append(no, yes, "/program")...); err != nil || name != yes {
			t.Errorf("found %q instead of %q, %v", name, yes, err)
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
	// One in 256 blocks of 4096 bytes, then others of that.
	good := make([]byte, 1024)
	binary.LittleEndian.PutUint32(good[0x4:], 256)
	binary.LittleEndian.PutUint32(good[0x18:], 2)
	binary.LittleEndian.PutUint32(good[0x38:], 1<<16|0xef53)
	binary.LittleEndian.PutUint32(good[0x60:], 0x80|0x40|0x2)
	if err := checkSuperblock(good, 1<<20); err != nil {
		f.Fatalf("a good one: %v", err)
	}
	f.Add(good, int64(1<<20))
	f.Add(good, int64(1<<20-1))
	for _, at := range []int{0x60, 0x150, 0x153, 0x7, 0x18, 0x1b} {
		other := bytes.Clone(good)
		other[at] |= 0x4
		f.Add(other, int64(1<<20))
		f.Add(other, int64(math.MaxInt64))
	}
	f.Fuzz(func(t *testing.T, block []byte, size int64) {
		if len(block) != 1024 || size < 0 || checkSuperblock(block, size) != nil {
			return
		}
		incompat := binary.LittleEndian.Uint32(block[0x60:])
		if incompat&0x4 != 0 {
			t.Error("a journal that has to be replayed was taken")
		}
		blocks := new(big.Int).SetUint64(uint64(binary.LittleEndian.Uint32(block[0x4:])))
		if incompat&0x80 != 0 {
			high := new(big.Int).SetUint64(uint64(binary.LittleEndian.Uint32(block[0x150:])))
			blocks.Add(blocks, high.Lsh(high, 32))
		}
		length := blocks.Lsh(blocks, 10+uint(binary.LittleEndian.Uint32(block[0x18:])))
		if length.Sign() == 0 || length.Cmp(big.NewInt(size)) > 0 {
			t.Errorf("a file system of %d bytes was taken in a file of %d", length, size)
		}
	})
}
