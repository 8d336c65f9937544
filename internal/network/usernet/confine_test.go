package usernet

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"banger/internal/network/policy"
	"banger/internal/network/resolver"
)

// tryConfined makes the test binary run confined.
const tryConfined = "try-confined"

// confined tries what a confined process must not be able to do, and prints
// one line for each that it can.
func confined(args []string) error {
	parent, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	secret := args[1]
	probeIPv6()
	if err := restrict(slog.New(slog.NewTextHandler(os.Stderr, nil)), resolver.ResolvConf); err != nil {
		return err
	}
	attempts := map[string]func() error{
		"read a file": func() error {
			_, err := os.ReadFile(secret)
			return err
		},
		"write a file": func() error { return os.WriteFile(secret+".new", nil, 0o600) },
		"list /etc": func() error {
			_, err := os.ReadDir("/etc")
			return err
		},
		"run a program": func() error { return exec.Command("/bin/true").Run() }, //nolint:noctx // it must not start at all
		"signal another process": func() error {
			return unix.Kill(parent, 0)
		},
		"trace another process": func() error { return unix.PtraceAttach(parent) },
		"open a unix socket": func() error {
			fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
			if err == nil {
				unix.Close(fd)
			}
			return err
		},
		"listen": func() error {
			l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
			if err == nil {
				l.Close()
			}
			return err
		},
		"make a namespace": func() error { return unix.Unshare(unix.CLONE_NEWUSER) },
		"mount":            func() error { return unix.Mount("none", "/mnt", "tmpfs", 0, "") },
		"become root":      func() error { return unix.Setuid(0) },
	}
	for name, attempt := range attempts {
		if err := attempt(); err == nil {
			if name == "become root" && os.Getuid() == 0 {
				continue // where it may not give up root
			}
			fmt.Fprintln(os.Stdout, "can", name)
		}
	}
	// What it is for must work.
	if _, err := os.ReadFile(resolver.ResolvConf); err != nil && !errors.Is(err, os.ErrNotExist) {
		fmt.Fprintln(os.Stdout, "cannot read the list of DNS servers:", err)
	}
	if _, err := policy.HostNetworks(); err != nil {
		fmt.Fprintln(os.Stdout, "cannot list addresses:", err)
	}
	if !routedToSelf(netip.MustParseAddr("127.0.0.1")) {
		fmt.Fprintln(os.Stdout, "cannot ask the kernel's routing")
	}
	return nil
}

func TestConfine(t *testing.T) {
	t.Parallel()
	executable, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// Nobody's to read as well, which root becomes: t.TempDir is private.
	dir, err := os.MkdirTemp("", "banger-confine-") //nolint:usetesting // see above
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	secret := filepath.Join(dir, "secret")
	if err := errors.Join(os.Chmod(dir, 0o755), os.WriteFile(secret, []byte("secret"), 0o644)); err != nil { //nolint:gosec // see above
		t.Fatal(err)
	}
	var stdout, stderr strings.Builder
	cmd := exec.CommandContext(t.Context(), executable, tryConfined, strconv.Itoa(os.Getpid()), secret)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("%v: %s", err, stderr.String())
	}
	if stderr.Len() > 0 {
		// A kernel that lacks something says so, and cannot be held to it.
		t.Skipf("not all of it is there: %s", stderr.String())
	}
	if stdout.Len() > 0 {
		t.Errorf("the confined process:\n%s", stdout.String())
	}
}
