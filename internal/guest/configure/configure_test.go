package configure

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"banger/internal/agent/wire"
	"banger/internal/guest/rootfs"
)

func valid() wire.Configuration {
	return wire.Configuration{
		Hostname:       "sandbox",
		MachineID:      "0123456789abcdef0123456789abcdef",
		Interface:      &wire.Interface{MAC: "52:54:00:00:00:01", Address: "172.16.0.5/24", Gateway: "172.16.0.1"},
		DNS:            []string{"172.16.0.3"},
		Hosts:          []wire.Host{{Address: "172.16.0.1", Name: "host.vm"}},
		AuthorizedKeys: []string{"ssh-ed25519 AAAA host"},
		HostKeys:       []wire.HostKey{{Type: "ed25519", Private: "PRIVATE", Public: "PUBLIC\n"}},
		Environment:    map[string]string{"B": "2 3", "A": "1"},
		Certificates:   []wire.Certificate{{ID: "0123456789abcdef", SubjectHash: "01234567", PEM: "PEM"}},
	}
}

func TestCheck(t *testing.T) {
	t.Parallel()
	if err := Check(valid()); err != nil {
		t.Error(err)
	}
	for name, change := range map[string]func(*wire.Configuration){
		"hostname":      func(c *wire.Configuration) { c.Hostname = "a\nb" },
		"no hostname":   func(c *wire.Configuration) { c.Hostname = "" },
		"machine id":    func(c *wire.Configuration) { c.MachineID = "xyz" },
		"DNS":           func(c *wire.Configuration) { c.DNS = []string{"1.2.3.4\noptions x"} },
		"host address":  func(c *wire.Configuration) { c.Hosts[0].Address = "here" },
		"host name":     func(c *wire.Configuration) { c.Hosts[0].Name = "a b" },
		"key":           func(c *wire.Configuration) { c.AuthorizedKeys = []string{"a\nb"} },
		"host key type": func(c *wire.Configuration) { c.HostKeys[0].Type = "../../../etc/passwd" },
		"variable":      func(c *wire.Configuration) { c.Environment = map[string]string{"A B": ""} },
		"value":         func(c *wire.Configuration) { c.Environment = map[string]string{"A": "x\ny"} },
		"id":            func(c *wire.Configuration) { c.Certificates[0].ID = "../x" },
		"no id":         func(c *wire.Configuration) { c.Certificates[0].ID = "" },
		"hash":          func(c *wire.Configuration) { c.Certificates[0].SubjectHash = "../../ab" },
		"MAC":           func(c *wire.Configuration) { c.Interface.MAC = "no" },
		"address":       func(c *wire.Configuration) { c.Interface.Address = "1.2.3.4" },
		"gateway":       func(c *wire.Configuration) { c.Interface.Gateway = "no" },
		"MTU":           func(c *wire.Configuration) { c.Interface.MTU = -1 },
	} {
		c := valid()
		change(&c)
		if err := Check(c); err == nil {
			t.Errorf("%s: taken", name)
		}
	}
}

func newRoot(tb testing.TB) (*rootfs.FS, string) {
	tb.Helper()
	dir := tb.TempDir()
	root, err := rootfs.Open(dir)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { root.Close() })
	return root, dir
}

func TestFiles(t *testing.T) {
	t.Parallel()
	root, dir := newRoot(t)
	if err := os.MkdirAll(filepath.Join(dir, "root"), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Join(dir, "root"), 0o777); err != nil {
		t.Fatal(err)
	}
	// Twice: it is idempotent.
	for range 2 {
		if _, err := Files(root, valid()); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]struct {
		content string
		mode    os.FileMode
	}{
		"etc/hostname":                     {"sandbox\n", 0o644},
		"etc/machine-id":                   {"0123456789abcdef0123456789abcdef\n", 0o444},
		"etc/resolv.conf":                  {"# Written by banger at each start.\nnameserver 172.16.0.3\n", 0o644},
		"etc/hosts":                        {begin + "\n127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n172.16.0.5 sandbox\n172.16.0.1 host.vm\n" + end + "\n", 0o644},
		"etc/environment":                  {begin + "\nA=1\nB=2 3\nNODE_EXTRA_CA_CERTS=" + hostBundle + "\n" + end + "\n", 0o644},
		"root/.ssh/authorized_keys":        {begin + "\nssh-ed25519 AAAA host\n" + end + "\n", 0o600},
		"etc/ssh/ssh_host_ed25519_key":     {"PRIVATE\n", 0o600},
		"etc/ssh/ssh_host_ed25519_key.pub": {"PUBLIC\n", 0o644},
	} {
		path := filepath.Join(dir, name)
		b, err := os.ReadFile(path)
		if err != nil || string(b) != want.content {
			t.Errorf("%s: got %q, %v, want %q", name, b, err, want.content)
		}
		if info, err := os.Stat(path); err == nil && info.Mode() != want.mode {
			t.Errorf("%s: mode %v, want %v", name, info.Mode(), want.mode)
		}
	}
	for name, want := range map[string]os.FileMode{"root": 0o755, "root/.ssh": 0o700} {
		if info, err := os.Stat(filepath.Join(dir, name)); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v, want %v", name, info, err, want)
		}
	}
}

func TestMergeBlock(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		old  string
		keep bool
		want string
	}{
		"empty":            {"", false, begin + "\nnew\n" + end + "\n"},
		"image's, kept":    {"mine\n", true, "mine\n" + begin + "\nnew\n" + end + "\n"},
		"image's, dropped": {"mine\n", false, begin + "\nnew\n" + end + "\n"},
		"replaced":         {"before\n" + begin + "\nold\n" + end + "\nafter", false, "before\n" + begin + "\nnew\n" + end + "\nafter\n"},
		"end missing":      {begin + "\nold\n", true, begin + "\nnew\n" + end + "\n"},
	} {
		if got := string(mergeBlock([]byte(test.old), []string{"new"}, test.keep)); got != test.want {
			t.Errorf("%s: got %q, want %q", name, got, test.want)
		}
	}
}

func FuzzMergeBlock(f *testing.F) {
	f.Add([]byte("a\n"+begin+"\nb\n"+end+"\nc"), true)
	f.Fuzz(func(t *testing.T, old []byte, keep bool) {
		once := mergeBlock(old, []string{"new"}, keep)
		if twice := mergeBlock(once, []string{"new"}, keep); string(twice) != string(once) {
			t.Errorf("%q becomes %q", once, twice)
		}
	})
}

// FuzzConfiguration applies whatever passes Check, and looks for lines that
// were smuggled into a file.
func FuzzConfiguration(f *testing.F) {
	b, err := json.Marshal(valid())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		var c wire.Configuration
		if json.Unmarshal(b, &c) != nil || Check(c) != nil {
			return
		}
		root, dir := newRoot(t)
		if _, err := Files(root, c); err != nil {
			return // such as a name that is too long for the file system
		}
		keys, err := os.ReadFile(filepath.Join(dir, "root/.ssh/authorized_keys"))
		if err == nil && strings.Count(string(keys), "\n") != len(c.AuthorizedKeys)+2 {
			t.Errorf("%d keys became %q", len(c.AuthorizedKeys), keys)
		}
	})
}
