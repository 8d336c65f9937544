package ssh

import (
	"crypto/ed25519"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/crypto/ssh"
)

func TestLoadOrCreateKey(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "state dir", "ssh", "id_ed25519")
	made, err := LoadOrCreateKey(path)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(made, "ssh-ed25519 AAAA") || strings.Contains(made, "\n") {
		t.Errorf("got %q, want one line", made)
	}
	for name, mode := range map[string]os.FileMode{path: 0o600, path + ".pub": 0o644, filepath.Dir(path): 0o700} {
		if info, err := os.Stat(name); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v, want %04o", name, info.Mode(), err, mode)
		}
	}
	if err := os.Remove(path + ".pub"); err != nil {
		t.Fatal(err)
	}
	again, err := LoadOrCreateKey(path)
	if err != nil || again != made {
		t.Errorf("without the .pub file: %q, %v, want %q", again, err, made)
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(entries) != 1 {
		t.Errorf("files beside the key: %v, %v", entries, err)
	}
}

func TestLoadOrCreateKeyConcurrently(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "ssh", "id_ed25519")
	keys := make([]string, 20)
	errs := make([]error, len(keys))
	var wait sync.WaitGroup
	for i := range keys {
		wait.Go(func() { keys[i], errs[i] = LoadOrCreateKey(path) })
	}
	wait.Wait()
	for i := range keys {
		if errs[i] != nil || keys[i] != keys[0] {
			t.Errorf("caller %d: %q, %v, want %q", i, keys[i], errs[i], keys[0])
		}
	}
	public, err := os.ReadFile(path + ".pub")
	if err != nil || !strings.HasPrefix(string(public), keys[0]) {
		t.Errorf("the .pub file has %q, %v", public, err)
	}
	if entries, err := os.ReadDir(filepath.Dir(path)); err != nil || len(entries) != 2 {
		t.Errorf("left behind: %v, %v", entries, err)
	}
}

func TestLoadKeyWithPassphrase(t *testing.T) {
	t.Parallel()
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKeyWithPassphrase(private, "", []byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	want, err := ssh.NewPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := LoadOrCreateKey(path); err != nil || got != authorizedLine(want) {
		t.Errorf("got %q, %v", got, err)
	}
}

func TestLoadKeyRefuses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "it's a key")
	if _, err := LoadOrCreateKey(path); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadOrCreateKey(path); err == nil || !strings.Contains(err.Error(), "chmod 0600") {
		t.Errorf("a key that others can read: %v", err)
	}
	garbage := filepath.Join(dir, "garbage")
	if err := os.WriteFile(garbage, []byte("not a key\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadOrCreateKey(garbage); err == nil {
		t.Error("garbage was taken as a key")
	}
	if data, err := os.ReadFile(garbage); err != nil || string(data) != "not a key\n" {
		t.Errorf("the file was changed: %q, %v", data, err)
	}
	if _, err := LoadOrCreateKey(dir); err == nil {
		t.Error("a directory was taken as a key")
	}
	if err := os.Symlink(filepath.Join(dir, "nowhere", "key"), filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadOrCreateKey(filepath.Join(dir, "link")); err == nil {
		t.Error("a dangling link was taken as a key")
	}
}

func TestNewHostKey(t *testing.T) {
	t.Parallel()
	one, err := NewHostKey()
	if err != nil {
		t.Fatal(err)
	}
	two, err := NewHostKey()
	if err != nil {
		t.Fatal(err)
	}
	if one.Private == two.Private || one.Public == two.Public {
		t.Error("two host keys are the same")
	}
	signer, err := ssh.ParsePrivateKey([]byte(one.Private))
	if err != nil {
		t.Fatal(err)
	}
	if got := authorizedLine(signer.PublicKey()); got != one.Public || one.Type != "ed25519" {
		t.Errorf("the halves do not fit: %q and %q, type %q", got, one.Public, one.Type)
	}
}
