package host

import (
	"context"
	"encoding/json"
	"fmt"
	"io"

	"banger/internal/doctor/checks"
	"banger/internal/paths"
)

// Report makes all checks, with an executable that is bangerd, and writes their rows as one JSON array.
func Report(ctx context.Context, getenv func(string) string, executable string, w io.Writer) error {
	dirs, err := paths.New(getenv)
	if err != nil {
		return err
	}
	deps, err := Deps(dirs, paths.Program(executable, paths.Shim))
	if err != nil {
		return err
	}
	if err := json.NewEncoder(w).Encode(checks.Run(ctx, deps)); err != nil {
		return fmt.Errorf("cannot write: %w", err)
	}
	return nil
}
