package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"
)

// failures has the names of the scripts that failed: TestScripts/NAME.
var failures struct {
	sync.Mutex
	names []string
}

// watched is what testscript's T is, too.
type watched interface {
	Name() string
	Failed() bool
	Cleanup(func())
}

func watch(t watched) {
	t.Cleanup(func() {
		if t.Failed() {
			failures.Lock()
			defer failures.Unlock()
			failures.names = append(failures.names, t.Name())
		}
	})
}

// again runs the scripts that failed once more, each alone, and returns the
// exit status: 0 if all pass now, with their names in large letters, since
// what fails now and then is a bug too.
func again(code int) int {
	failures.Lock()
	defer failures.Unlock()
	if len(failures.names) == 0 {
		return code // it is not a script that failed
	}
	fmt.Fprintf(os.Stdout, "\n==== FAILED, and run once more, each alone: %s\n", strings.Join(failures.names, " "))
	var flaky, broken []string
	for _, name := range failures.names {
		if alone(name) {
			flaky = append(flaky, name)
		} else {
			broken = append(broken, name)
		}
	}
	if len(flaky) > 0 {
		fmt.Fprintf(os.Stdout, "\n==== FLAKY, failed once and passed alone: %s\n", strings.Join(flaky, " "))
	}
	if len(broken) > 0 {
		fmt.Fprintf(os.Stdout, "\n==== FAILED TWICE: %s\n", strings.Join(broken, " "))
		return code
	}
	return 0
}

func alone(name string) bool {
	const limit = 10 * time.Minute
	ctx, cancel := context.WithTimeout(context.Background(), limit+time.Minute)
	defer cancel()
	pattern := "^" + strings.ReplaceAll(name, "/", "$/^") + "$"
	cmd := exec.CommandContext(ctx, os.Args[0], "-test.v", "-test.count=1", "-test.run="+pattern, "-test.timeout="+limit.String())
	cmd.Env = append(os.Environ(), "BANGER_TEST_AGAIN=", "BANGER_E2E_PREFIX="+prefix)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		fmt.Fprintf(os.Stdout, "%s: %v\n", name, err)
		return false
	}
	return true
}
