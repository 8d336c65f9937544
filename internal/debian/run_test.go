package debian

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"banger/internal/progress"
)

// patience is for what has to happen soon; no test waits it out.
const patience = time.Minute

// scripted runs a shell script in mmdebstrap's place; $1 is its name, the
// arguments follow.
func scripted(script string) runner {
	return runner{prefix: []string{"/bin/sh", "-c", script, "sh"}, remove: []string{"rm", "-rf", "--"}}
}

func TestBuild(t *testing.T) {
	t.Parallel()
	tree := t.TempDir()
	var (
		out   bytes.Buffer
		steps []string
	)
	report := func(e progress.Event) { steps = append(steps, e.Text) }
	err := scripted(`
		echo "I: running apt-get update..." >&2
		echo "W: whatever" >&2
		echo "I: done" >&2
		printf '%s|%s|%s' "$1" "$2" "$TMPDIR"
	`).build(t.Context(), tree, []string{"--flag"}, &out, report)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := out.String(), "mmdebstrap|--flag|"+tree; got != want {
		t.Errorf("the stream is %q, want %q", got, want)
	}
	if diff := cmp.Diff([]string{"running apt-get update"}, steps); diff != "" {
		t.Errorf("steps (-want +got):\n%s", diff)
	}
}

func TestBuildErrors(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ name, script, want string }{
		{
			"apt's errors", `
			echo "I: running apt-get update..." >&2
			echo "E: Unable to locate package nonesuch" >&2
			echo "E: run_chroot failed" >&2
			echo "E: mmdebstrap failed to run" >&2
			exit 1`,
			"cannot build from the Debian archive: E: Unable to locate package nonesuch; E: run_chroot failed",
		},
		{
			"no line that looks like one", `echo one >&2; echo two >&2; exit 1`,
			"cannot build from the Debian archive: one; two",
		},
		{"silence", `exit 3`, "cannot build from the Debian archive: mmdebstrap: exit status 3"},
		{
			"what a terminal would not show", `printf '\033[31mE: red\033[0m\n 10%%\r 20%%\rE: late\r\n' >&2; exit 1`,
			"cannot build from the Debian archive: E: red; E: late",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			err := scripted(test.script).build(t.Context(), t.TempDir(), nil, io.Discard, progress.Discard)
			if err == nil || err.Error() != test.want {
				t.Errorf("got  %v\nwant %s", err, test.want)
			}
		})
	}
}

// An endless line must not be kept.
func TestLongOutput(t *testing.T) {
	t.Parallel()
	c := follow(io.MultiReader(
		strings.NewReader("E: "+strings.Repeat("x", 10*maxLine)+"\n"),
		strings.NewReader(strings.Repeat("E: again\n", 1000)),
	), progress.Discard)
	if len(c.errors) != keepLines || len(c.explain(nil)) > keepLines*maxLine {
		t.Errorf("%d lines with %d bytes were kept", len(c.errors), len(c.explain(nil)))
	}
}

// many starts processes in the background, one of them deaf to signals, all of
// which hold the writing end of a named pipe.
const many = `
	exec 9>"$2"
	sleep 1000 &
	sh -c 'trap "" TERM HUP INT; sleep 1000; sleep 1000' &
	echo ready >&9
	sleep 1000
`

// fifo makes a named pipe; gone is closed when the last writer is, and ready
// when the first wrote something.
func fifo(t *testing.T) (path string, ready, gone chan struct{}) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	ready, gone = make(chan struct{}), make(chan struct{})
	go func() {
		defer close(gone)
		f, err := os.Open(path)
		if err != nil {
			t.Error(err)
			close(ready)
			return
		}
		defer f.Close()
		if _, err := f.Read(make([]byte, 16)); err != nil {
			t.Error(err)
		}
		close(ready)
		if _, err := io.Copy(io.Discard, f); err != nil {
			t.Error(err)
		}
	}()
	return path, ready, gone
}

func await(t *testing.T, c <-chan struct{}, what string) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(patience):
		t.Fatalf("%s: not in %v", what, patience)
	}
}

func TestCancelKillsAll(t *testing.T) {
	t.Parallel()
	path, ready, gone := fifo(t)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-ready; cancel() }()
	err := scripted(many).build(ctx, t.TempDir(), []string{path}, io.Discard, progress.Discard)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got error %v", err)
	}
	await(t, gone, "the end of all processes")
}

func TestStragglersAreKilled(t *testing.T) {
	t.Parallel()
	path, _, gone := fifo(t)
	err := scripted(`exec 9>"$2"; sleep 1000 >/dev/null & echo ready >&9`).build(t.Context(), t.TempDir(), []string{path}, io.Discard, progress.Discard)
	if err != nil {
		t.Errorf("got error %v", err)
	}
	await(t, gone, "the end of what outlived the build")
}

func TestCanceledBeforeItStarts(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	err := scripted(`exec sleep 1000`).build(ctx, t.TempDir(), nil, io.Discard, progress.Discard)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got error %v", err)
	}
}

type fullDisk struct{}

func (fullDisk) Write([]byte) (int, error) { return 0, syscall.ENOSPC }

// A reader that fails stops the build at once, and its error is the one told.
func TestWriterFails(t *testing.T) {
	t.Parallel()
	err := scripted(`echo data; echo "E: later" >&2; exec sleep 1000`).build(t.Context(), t.TempDir(), nil, fullDisk{}, progress.Discard)
	if !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("got error %v", err)
	}
}

// ownerVariable makes this test's program an owner of a build, to be killed; it
// builds in a directory of the test's, since it cannot remove one of its own.
const (
	ownerVariable = "BANGER_TEST_OWNER_FIFO"
	placeVariable = "BANGER_TEST_OWNER_DIRECTORY"
)

func TestKilledOwner(t *testing.T) {
	t.Parallel()
	if path := os.Getenv(ownerVariable); path != "" {
		err := scripted(many).build(t.Context(), os.Getenv(placeVariable), []string{path}, io.Discard, progress.Discard)
		t.Fatalf("the build has ended: %v", err)
	}
	path, ready, gone := fifo(t)
	owner := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestKilledOwner$")
	owner.Env = append(os.Environ(), ownerVariable+"="+path, placeVariable+"="+t.TempDir())
	if err := owner.Start(); err != nil {
		t.Fatal(err)
	}
	defer owner.Wait()
	var once sync.Once
	kill := func() { once.Do(func() { owner.Process.Kill() }) }
	defer kill()
	await(t, ready, "the start of the build")
	kill()
	await(t, gone, "the end of all processes of a killed owner")
}
