package ssh

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func hostKey(t *testing.T) string {
	t.Helper()
	key, err := NewHostKey()
	if err != nil {
		t.Fatal(err)
	}
	return key.Public
}

func TestWriteKnownHosts(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "ssh", "known_hosts")
	one, two := hostKey(t), hostKey(t)
	write := func(want string, hosts ...KnownHost) {
		t.Helper()
		if err := WriteKnownHosts(path, hosts); err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, string(got)); diff != "" {
			t.Errorf("known_hosts (-want +got):\n%s", diff)
		}
	}
	write("a.vm "+one+"\nb.vm "+two+"\n", KnownHost{"b", []string{two + " a comment\n"}}, KnownHost{"a", []string{one}})
	past := time.Unix(1e9, 0)
	if err := os.Chtimes(path, past, past); err != nil {
		t.Fatal(err)
	}
	write("a.vm "+one+"\nb.vm "+two+"\n", KnownHost{"a", []string{one}}, KnownHost{"b", []string{two}})
	if info, err := os.Stat(path); err != nil || !info.ModTime().Equal(past) || info.Mode() != 0o600 {
		t.Errorf("the same hosts were written again: %v, %v", info, err)
	}
	write("b.vm "+two+"\n", KnownHost{"b", []string{two}})
	write("")
	for _, host := range []KnownHost{{"*", []string{one}}, {"a b", nil}, {"", nil}, {"a", []string{"junk"}}, {"a\nb", []string{one}}} {
		if err := WriteKnownHosts(path, []KnownHost{host}); err == nil {
			t.Errorf("%+v was written", host)
		}
	}
}

func TestWriteConfig(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "config", "ssh_config")
	err := WriteConfig(path, ConfigOptions{Key: "/home/a b/100%/key", KnownHosts: "/home/a b/known_hosts", Banger: "/home/it's 100%/banger"})
	if err != nil {
		t.Fatal(err)
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want := `# Written by banger. Changes to this file are lost.
Host *.vm
    User root
    IdentityFile "/home/a b/100%%/key"
    IdentitiesOnly yes
    PreferredAuthentications publickey
    UserKnownHostsFile "/home/a b/known_hosts"
    GlobalKnownHostsFile /dev/null
    StrictHostKeyChecking yes
    UpdateHostKeys no
    CanonicalizeHostname no
    ForwardAgent no
    ControlMaster no
    ControlPath none
    ServerAliveInterval 15
    ServerAliveCountMax 4
    ProxyCommand '/home/it'\''s 100%%/banger' internal ssh-proxy %h
`
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("ssh_config (-want +got):\n%s", diff)
	}
	for _, bad := range []ConfigOptions{
		{Key: "/a\nb", KnownHosts: "/k", Banger: "/b"},
		{Key: "/a\"b", KnownHosts: "/k", Banger: "/b"},
		{Key: "/a", KnownHosts: "/${HOME}", Banger: "/b"},
		{Key: "/a", KnownHosts: "/k", Banger: "/b\n"},
	} {
		if err := WriteConfig(path, bad); err == nil {
			t.Errorf("%+v was written", bad)
		}
	}
}

// TestOpenSSHReadsConfig asks the real ssh what it makes of the file.
func TestOpenSSHReadsConfig(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("ssh"); err != nil {
		t.Skip("SKIPPED: the OpenSSH client is not installed")
	}
	dir := filepath.Join(t.TempDir(), `it's "not" 100% a\b`)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	plain := t.TempDir()
	options := ConfigOptions{Key: filepath.Join(plain, "50% of a key"), KnownHosts: filepath.Join(plain, "known hosts"), Banger: filepath.Join(dir, "banger")}
	// A shell by the name of banger, which runs the script "internal": a
	// program that was just written could still be busy.
	if err := os.Symlink("/bin/sh", options.Banger); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(plain, "internal"), []byte("echo \"asked: $*\" >asked\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(plain, "ssh_config")
	if err := WriteConfig(path, options); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	argv := Command(path, "box", []string{"-G"}, nil)
	out, err := exec.CommandContext(ctx, argv[0], argv[1:]...).Output()
	if err != nil {
		t.Fatalf("ssh does not read the file: %v", err)
	}
	for _, want := range []string{"\nuser root\n", "\nhostname box.vm\n", "\nstricthostkeychecking true\n", "\nidentitiesonly yes\n", "/known hosts"} {
		if !strings.Contains("\n"+string(out), want) {
			t.Errorf("ssh -G does not say %q:\n%s", want, out)
		}
	}
	// The proxy ends at once, so ssh fails; what counts is that it was asked.
	argv = Command(path, "box", nil, []string{"true"})
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir = plain
	out, err = cmd.CombinedOutput()
	if err == nil {
		t.Error("ssh connected to nothing")
	}
	asked, err := os.ReadFile(filepath.Join(plain, "asked"))
	if err != nil || string(asked) != "asked: ssh-proxy box.vm\n" {
		t.Errorf("the proxy got %q, %v; ssh said %s", asked, err, out)
	}
}

func TestCommand(t *testing.T) {
	t.Parallel()
	got := Command("/c", "box", []string{"-A"}, []string{"ls", "-l"})
	if diff := cmp.Diff([]string{"ssh", "-F", "/c", "-A", "box.vm", "--", "ls", "-l"}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if diff := cmp.Diff([]string{"ssh", "-F", "/c", "box.vm"}, Command("/c", "box", nil, nil)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
