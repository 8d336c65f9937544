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
)

// timeout bounds each program that is run.
const timeout = time.Minute

// Run runs a program of the system, and returns what it writes.
func Run(ctx context.Context, input, name string, args ...string) (string, error) {
	path, err := exec.LookPath(name)
	if err != nil {
		// Not everybody has it in PATH.
		if path, err = exec.LookPath(filepath.Join("/usr/sbin", name)); err != nil {
			return "", &api.Error{Kind: api.KindState, Message: fmt.Sprintf("cannot find the program %q", name), Hint: "install the package that has it: nftables for nft, systemd for systemctl and resolvectl"}
		}
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &out, &errs
	// What was begun must not go on once who wanted it was killed.
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	runtime.LockOSThread() // it is the thread's death that counts
	defer runtime.UnlockOSThread()
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		if said := strings.Join(strings.Fields(errs.String()), " "); said != "" {
			err = fmt.Errorf("%w: %s", err, said)
		}
		return "", fmt.Errorf("%s %s: %w", name, strings.Join(args, " "), err)
	}
	return out.String(), nil
}
