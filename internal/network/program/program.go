// Package program runs programs of the system for root.
package program

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"

	"banger/internal/api"
	"banger/internal/excerpt"
)

// timeout bounds each program that is run.
const timeout = time.Minute

// maxSaid is how much of the beginning and of the end of what a program
// complains of is in an error, in bytes.
const maxSaid = 2 << 10

// system is where root looks besides PATH, and the PATH of what it runs.
var system = []string{"/usr/sbin", "/usr/bin", "/sbin", "/bin"}

type stubs struct{}

// WithStubs is for tests: programs in dir come first, whosever they are.
func WithStubs(ctx context.Context, dir string) context.Context {
	return context.WithValue(ctx, stubs{}, dir)
}

// find returns the path of a program, empty if there is none. For root it is
// one that nobody else can change, and resolved: sudo may keep the user's PATH.
func find(ctx context.Context, name string) string {
	if dir, ok := ctx.Value(stubs{}).(string); ok {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path
		}
	}
	guarded := os.Geteuid() == 0 && !alone()
	for _, dir := range append(filepath.SplitList(os.Getenv("PATH")), system...) {
		if !filepath.IsAbs(dir) {
			continue
		}
		path, err := exec.LookPath(filepath.Join(dir, name))
		if err != nil {
			continue
		}
		if !guarded {
			return path
		}
		// The directory counts, too: a link of the user's may lead to another
		// program of root's.
		dir, err := filepath.EvalSymlinks(dir)
		if err != nil || !OnlyRoots(dir) {
			continue
		}
		if path, err = filepath.EvalSymlinks(filepath.Join(dir, name)); err == nil && OnlyRoots(path) {
			return path
		}
	}
	return ""
}

// alone says that there is nobody but root in this user namespace: it is the
// user who made it, and the files of the system's root are nobody's.
func alone() bool {
	text, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		return false
	}
	fields := strings.Fields(string(text))
	return len(fields) == 3 && fields[2] == "1"
}

// OnlyRoots says whether nobody but root can change what is at a path, which
// has no links in it.
func OnlyRoots(path string) bool {
	for {
		info, err := os.Lstat(path)
		if err != nil || info.Sys().(*syscall.Stat_t).Uid != 0 || info.Mode()&os.ModeSymlink != 0 || info.Mode().Perm()&0o022 != 0 {
			return false
		}
		if path == filepath.Dir(path) {
			return true
		}
		path = filepath.Dir(path)
	}
}

// Run runs a program of the system, and returns what it writes. The program
// gets nothing of the environment.
func Run(ctx context.Context, input, name string, args ...string) (string, error) {
	path := find(ctx, name)
	if path == "" {
		return "", &api.Error{Kind: api.KindState, Message: fmt.Sprintf("cannot find the program %q where only root can change it", name), Hint: "install the package that has it: nftables for nft, systemd for systemctl and resolvectl"}
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var out bytes.Buffer
	said := excerpt.Writer{Limit: maxSaid}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Args[0] = name
	cmd.Env = []string{"PATH=" + strings.Join(system, ":"), "LC_ALL=C"}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &out, &said
	// What was begun must not go on once who wanted it was killed.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	runtime.LockOSThread() // it is the thread's death that counts
	defer runtime.UnlockOSThread()
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		if text := strings.Join(strings.Fields(said.String()), " "); text != "" {
			err = fmt.Errorf("%w: %s", err, text)
		}
		return "", fmt.Errorf("%s %s: %w", name, strings.Join(args, " "), err)
	}
	return out.String(), nil
}
