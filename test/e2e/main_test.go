package e2e

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"

	"banger/test/base"
)

// enabled is the one gate of these tests.
func enabled() bool { return os.Getenv("BANGER_E2E") != "" }

// prefix is what the programs are installed under, as `make install` does it:
// BANGER_E2E_PREFIX, else a temporary one.
var prefix string

func TestMain(m *testing.M) {
	prefix = os.Getenv("BANGER_E2E_PREFIX")
	var made string
	if enabled() && prefix == "" {
		dir, err := install()
		if err != nil {
			fmt.Fprintln(os.Stderr, "e2e:", err)
			os.Exit(cleanup(1, dir))
		}
		prefix, made = dir, dir
	}
	code := m.Run()
	if code != 0 && os.Getenv("BANGER_TEST_AGAIN") != "" {
		code = again(code)
	}
	os.Exit(cleanup(code, made))
}

// cleanup removes what install made and returns the exit status.
func cleanup(code int, made string) int {
	if made == "" {
		return code
	}
	if err := os.RemoveAll(made); err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
	}
	return code
}

func install() (dir string, err error) {
	dir, err = os.MkdirTemp("", "be2e-bin-")
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Minute)
	defer cancel()
	return dir, base.Install(ctx, root(), dir, os.Stderr)
}
