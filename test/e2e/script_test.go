package e2e

import (
	"cmp"
	"context"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"banger/test/base"
)

// turns bounds how many scripts have VMs at the same time.
var turns = make(chan struct{}, 2)

func TestScripts(t *testing.T) {
	if !enabled() {
		t.Skip("SKIPPED: the end-to-end tests boot real VMs; set BANGER_E2E=1, or run: make e2e")
	}
	testscript.Run(t, testscript.Params{
		Dir:   "testdata",
		Setup: setup,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"needs":      needs,
			"code":       code,
			"eventually": eventually,
			"capture":    capture,
			"clean":      clean,
			"https":      https,
			"oddities":   oddities,
			"same":       same,
		},
		Condition:          condition,
		RequireUniqueNames: true,
	})
}

// root is the module's directory.
func root() string { return filepath.Join("..", "..") }

// place is where a script's instance of banger lives.
type place struct {
	state   string // XDG_STATE_HOME
	runtime string // XDG_RUNTIME_DIR, short: sockets are in it
}

type placeKey struct{}

func setup(env *testscript.Env) error {
	watch(env.T().(watched))
	dir, err := base.Dir(root())
	if err != nil {
		return err
	}
	work, err := os.MkdirTemp(dir, "run-")
	if err != nil {
		return err
	}
	env.Defer(func() { os.RemoveAll(work) })
	runtimeDir, err := os.MkdirTemp("/tmp", "be2e-")
	if err != nil {
		return err
	}
	env.Defer(func() { os.RemoveAll(runtimeDir) })
	p := &place{state: filepath.Join(work, "state"), runtime: runtimeDir}
	env.Values[placeKey{}] = p
	home := filepath.Join(env.WorkDir, "home")
	for _, dir := range []string{p.state, home, filepath.Join(home, ".config", "banger")} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	env.Setenv("HOME", home)
	env.Setenv("XDG_CONFIG_HOME", filepath.Join(home, ".config"))
	env.Setenv("XDG_STATE_HOME", p.state)
	env.Setenv("XDG_CACHE_HOME", filepath.Join(work, "cache"))
	env.Setenv("XDG_RUNTIME_DIR", p.runtime)
	env.Setenv("STATE", filepath.Join(p.state, "banger"))
	env.Setenv("PREFIX", prefix)
	env.Setenv("STREAM_MIB", cmp.Or(os.Getenv("BANGER_E2E_STREAM_MIB"), "2048"))
	env.Setenv("OCI_MIB", cmp.Or(os.Getenv("BANGER_E2E_OCI_MIB"), "64"))
	absolute, err := filepath.Abs(root())
	if err != nil {
		return err
	}
	env.Setenv("ROOT", absolute)
	// A script that builds must not fetch everything into a home of its own.
	for _, name := range []string{"GOCACHE", "GOMODCACHE"} {
		out, err := exec.CommandContext(context.Background(), "go", "env", name).Output()
		if err != nil {
			return fmt.Errorf("cannot ask the Go tool for %s: %w", name, err)
		}
		env.Setenv(name, strings.TrimSpace(string(out)))
	}
	env.Setenv("PATH", filepath.Join(prefix, "bin")+":"+env.Getenv("PATH")+":/usr/sbin:/sbin")
	env.Defer(func() {
		for _, left := range processes(p) {
			env.T().Log("killed what was left running: " + left.String())
			left.kill()
		}
	})
	return nil
}

func placeOf(ts *testscript.TestScript) *place { return ts.Value(placeKey{}).(*place) }

func needs(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 || args[0] != "vm" {
		ts.Fatalf("usage: needs vm")
	}
	turns <- struct{}{}
	ts.Defer(func() { <-turns })
	ts.Defer(func() { showLog(ts) })
	dir, err := fetched()
	ts.Check(err)
	ts.Check(base.Provide(context.Background(), dir, placeOf(ts).state))
}

// fetched is the directory with a kernel and an image.
var fetched = sync.OnceValues(func() (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Minute)
	defer cancel()
	dir, err := base.Dir(root())
	if err != nil {
		return "", err
	}
	return dir, base.Fetch(ctx, dir, prefix, os.Stderr)
})

// condition adds [root], [long] and [exists:PATH] to the conditions of the scripts.
func condition(name string) (bool, error) {
	if path, ok := strings.CutPrefix(name, "exists:"); ok {
		if !filepath.IsAbs(path) { // a script's directory is not known here
			return false, fmt.Errorf("[%s] is not of an absolute path", name)
		}
		_, err := os.Stat(path)
		return err == nil, nil
	}
	switch name {
	case "root":
		return os.Geteuid() == 0, nil
	case "long":
		return os.Getenv("BANGER_E2E_LONG") != "", nil
	}
	return false, fmt.Errorf("unknown condition %q", name)
}

// showLog prints the end of bangerd's log into the script's, which is shown if
// the script fails.
func showLog(ts *testscript.TestScript) {
	const tail = 8 << 10
	data, err := os.ReadFile(filepath.Join(placeOf(ts).state, "banger", "bangerd.log"))
	if err == nil {
		ts.Logf("[bangerd.log]\n%s", data[max(0, len(data)-tail):])
	}
}

func code(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: code N PROGRAM ARGS...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("exit status %d, want %d", got, want)
	}
}

func eventually(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: eventually SECONDS PROGRAM ARGS...")
	}
	seconds, err := strconv.Atoi(args[0])
	ts.Check(err)
	deadline := time.Now().Add(time.Duration(seconds) * time.Second)
	for {
		err := ts.Exec(args[1], args[2:]...)
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("not within %d s: %v", seconds, err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

func capture(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: capture VARIABLE PROGRAM ARGS...")
	}
	ts.Check(ts.Exec(args[1], args[2:]...))
	ts.Setenv(args[0], strings.TrimSpace(ts.ReadFile("stdout")))
}

// https serves a directory, as any static web server would: $URL leads to it,
// and SSL_CERT_FILE has the authority for it, so that what is started from now
// on knows no other.
func https(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: https DIRECTORY")
	}
	server := httptest.NewUnstartedServer(http.FileServer(http.Dir(ts.MkAbs(args[0]))))
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // of clients that do not know the authority
	server.StartTLS()
	ts.Defer(server.Close)
	authority := ts.MkAbs("authority.pem")
	ts.Check(os.WriteFile(authority, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600))
	ts.Setenv("SSL_CERT_FILE", authority)
	ts.Setenv("URL", server.URL)
}

// clean checks that a script leaves nothing. It stops bangerd.
func clean(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 0 {
		ts.Fatalf("usage: clean")
	}
	p := placeOf(ts)
	ts.Check(ts.Exec("banger", "vm", "list", "--json"))
	if out := strings.TrimSpace(ts.ReadFile("stdout")); out != "[]" {
		ts.Fatalf("VMs are left: %s", out)
	}
	ts.Check(ts.Exec("banger", "daemon", "stop"))
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	for len(processes(p)) > 0 {
		select {
		case <-ctx.Done():
			ts.Fatalf("processes are left: %v", processes(p))
		case <-time.After(50 * time.Millisecond):
		}
	}
	for _, left := range leftFiles(p) {
		ts.Fatalf("a file is left: %s", left)
	}
}

// leftFiles lists what a banger without VMs and at rest must not have.
func leftFiles(p *place) []string {
	var left []string
	for _, pattern := range []string{
		"state/banger/vms/*", "state/banger/*/tmp/*", "state/banger/tmp/*",
		"runtime/banger/vm/*", "runtime/banger/*.sock",
	} {
		home, rest, _ := strings.Cut(pattern, "/")
		dir := map[string]string{"state": p.state, "runtime": p.runtime}[home]
		found, err := filepath.Glob(filepath.Join(dir, rest))
		if err != nil {
			panic(err)
		}
		left = append(left, found...)
	}
	return left
}
