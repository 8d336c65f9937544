package vmm

import (
	"context"
	"fmt"
	"os/exec"
	"time"

	"banger/internal/excerpt"
)

// versionTimeout bounds what a program may take to say its version.
const versionTimeout = 20 * time.Second

// AskVersion returns what a VMM's program says with --version, of much the
// beginning and the end. The error has what it complains of.
func AskVersion(ctx context.Context, path string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, versionTimeout)
	defer cancel()
	var out, said excerpt.Writer
	cmd := exec.CommandContext(ctx, path, "--version")
	cmd.Stdout, cmd.Stderr = &out, &said
	cmd.WaitDelay = time.Second
	if err := cmd.Run(); err != nil {
		if first := said.FirstLine(); first != "" {
			err = fmt.Errorf("%w: %s", err, first)
		}
		return "", fmt.Errorf("%q does not tell its version: %w", path, err)
	}
	return out.String(), nil
}
