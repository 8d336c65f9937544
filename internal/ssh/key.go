// Package ssh makes and reads the keys that open guests, and writes the files
// that let OpenSSH on the host reach guests without a question asked.
package ssh

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/crypto/ssh"

	"banger/internal/agent/wire"
	"banger/internal/atomicfile"
)

// LoadOrCreateKey returns the public half, as a line of authorized_keys, of the
// private key at path. A key that is not there is made (ed25519, no
// passphrase); several callers at once, in any process, get the same key. The
// .pub file beside an existing key is not needed. A key that OpenSSH would
// refuse since others can read it is an error.
func LoadOrCreateKey(path string) (authorizedKey string, err error) {
	authorizedKey, err = loadKey(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return authorizedKey, err
	}
	if err := createKey(path); err != nil {
		return "", err
	}
	return loadKey(path)
}

func loadKey(path string) (string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", fmt.Errorf("cannot read the ssh key: %w", err)
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if ok && int(stat.Uid) == os.Getuid() && info.Mode().Perm()&0o077 != 0 {
		return "", fmt.Errorf("cannot use the ssh key %q: others can read it (mode %04o) and ssh would refuse it; run: chmod 0600 %s", path, info.Mode().Perm(), shellQuote(path))
	}
	if !info.Mode().IsRegular() || info.Size() > maxKeyFile {
		return "", fmt.Errorf("cannot use the ssh key %q: it is not a key file", path)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("cannot read the ssh key: %w", err)
	}
	public, err := publicHalf(data)
	if err != nil {
		// A key held by hardware, or an old format with a passphrase: only
		// the file beside it knows the public half.
		beside, besideErr := readPublic(path + ".pub")
		if besideErr != nil {
			return "", fmt.Errorf("cannot read the ssh key %q: %w; %w", path, err, besideErr)
		}
		public = beside
	}
	return authorizedLine(public), nil
}

const maxKeyFile = 64 << 10

func publicHalf(private []byte) (ssh.PublicKey, error) {
	signer, err := ssh.ParsePrivateKey(private)
	if err == nil {
		return signer.PublicKey(), nil
	}
	if locked, ok := errors.AsType[*ssh.PassphraseMissingError](err); ok && locked.PublicKey != nil {
		return locked.PublicKey, nil
	}
	return nil, err
}

func readPublic(path string) (ssh.PublicKey, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	public, _, _, _, err := ssh.ParseAuthorizedKey(data)
	if err != nil {
		return nil, fmt.Errorf("%q is not a public key: %w", path, err)
	}
	return public, nil
}

func authorizedLine(public ssh.PublicKey) string {
	return strings.TrimSuffix(string(ssh.MarshalAuthorizedKey(public)), "\n")
}

// createKey makes the key at path unless somebody else did so first.
func createKey(path string) (err error) {
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("cannot create the directory of the ssh key: %w", err)
	}
	pair, err := newPair("banger")
	if err != nil {
		return err
	}
	temporary, err := atomicfile.WriteTemp(dir, filepath.Base(path), []byte(pair.Private), 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(temporary)) }()
	// A link, unlike a rename, does not replace the key of a faster caller.
	err = os.Link(temporary, path)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("cannot create the ssh key: %w", err)
	}
	return atomicfile.Write(path+".pub", []byte(pair.Public+"\n"), 0o644)
}

// NewHostKey makes a host key for a guest's sshd.
func NewHostKey() (wire.HostKey, error) { return newPair("") }

func newPair(comment string) (wire.HostKey, error) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return wire.HostKey{}, fmt.Errorf("cannot make an ssh key: %w", err)
	}
	block, err := ssh.MarshalPrivateKey(private, comment)
	if err != nil {
		return wire.HostKey{}, fmt.Errorf("cannot encode an ssh key: %w", err)
	}
	sshPublic, err := ssh.NewPublicKey(public)
	if err != nil {
		return wire.HostKey{}, fmt.Errorf("cannot encode an ssh key: %w", err)
	}
	line := authorizedLine(sshPublic)
	if comment != "" {
		line += " " + comment
	}
	return wire.HostKey{Type: "ed25519", Private: string(pem.EncodeToMemory(block)), Public: line}, nil
}

// CheckKey says why the private key at path cannot be used; that it does not
// exist is an error too, and is fs.ErrNotExist. It changes nothing.
func CheckKey(path string) error {
	_, err := loadKey(path)
	return err
}
