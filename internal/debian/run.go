package debian

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"banger/internal/progress"
)

// guard starts the build beside a watchdog that shares its process group and
// waits for the end of file on descriptor 3, the other end of which only the
// caller has. So the whole group dies with its owner, even by kill -9, and the
// group's number cannot pass to others while the watchdog can still use it.
const guard = `umask 022
(read -r _ <&3; kill -KILL 0) >/dev/null 2>&1 &
exec "$@" 3<&-`

// build runs mmdebstrap with its temporary files in tree. It returns when no
// process of the build is left that could still write there.
func (r runner) build(ctx context.Context, tree string, args []string, w io.Writer, report progress.Func) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)

	hold, alive, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("cannot start mmdebstrap: %w", err)
	}
	defer hold.Close()
	kill := sync.OnceFunc(func() { alive.Close() })
	defer kill()

	argv := append([]string{"-c", guard, "sh"}, r.prefix...)
	argv = append(argv, "mmdebstrap")
	argv = append(argv, args...)
	// The group is killed through the watchdog, not by the context of exec,
	// which knows of one process only.
	cmd := exec.Command("/bin/sh", argv...) //nolint:noctx // ctx closes the watchdog's pipe, below
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), "TMPDIR="+tree, "LC_ALL=C.UTF-8", "PATH="+searchPath())
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.ExtraFiles = []*os.File{hold}
	cmd.Stdout = &sink{w: w, fail: func(err error) { cancel(err) }}
	// What a straggler could still have in the pipe for the tar stream.
	cmd.WaitDelay = time.Minute
	stderr, inherited, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("cannot start mmdebstrap: %w", err)
	}
	defer stderr.Close()
	defer inherited.Close()
	cmd.Stderr = inherited
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("cannot start mmdebstrap: %w", err)
	}
	hold.Close()
	inherited.Close()
	stop := context.AfterFunc(ctx, kill)
	defer stop()

	said := make(chan complaints, 1)
	go func() { said <- follow(stderr, report) }()
	err = cmd.Wait()
	// Whoever outlived mmdebstrap has standard error still: its end means
	// that all are gone.
	kill()
	last := <-said
	switch {
	case context.Cause(ctx) != nil:
		return fmt.Errorf("cannot build from the Debian archive: %w", context.Cause(ctx))
	case err != nil:
		return fmt.Errorf("cannot build from the Debian archive: %s", last.explain(err))
	}
	return nil
}

// searchPath has the directories of administrators' tools too, which ordinary
// users' search paths may lack.
func searchPath() string {
	path := os.Getenv("PATH")
	if path != "" {
		path += ":"
	}
	return path + "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
}

// sink reports the first failure of w, so that the build can be stopped at
// once instead of when it next writes.
type sink struct {
	w    io.Writer
	fail func(error)
}

func (s *sink) Write(p []byte) (int, error) {
	n, err := s.w.Write(p)
	if err == nil && n < len(p) {
		err = io.ErrShortWrite
	}
	if err != nil {
		s.fail(err)
	}
	return n, err
}

// complaints are the last lines in which the tools say what went wrong.
type complaints struct {
	errors []string // lines that begin like an error
	other  []string // the last lines of any kind
}

const (
	keepLines = 4
	maxLine   = 16 << 10 // longer lines are cut
)

// follow reads the output of mmdebstrap and the tools below it to its end.
func follow(r io.Reader, report progress.Func) complaints {
	var c complaints
	br := bufio.NewReaderSize(r, maxLine)
	for {
		raw, err := br.ReadSlice('\n')
		if line := clean(string(raw)); line != "" {
			c.add(line, report)
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return c // end of file, or a pipe that is as good as closed
		}
	}
}

func clean(line string) string {
	line = ansi.ReplaceAllString(line, "")
	if i := strings.LastIndexByte(strings.TrimRight(line, "\r\n"), '\r'); i >= 0 {
		line = line[i+1:] // what a terminal would show
	}
	return strings.TrimSpace(strings.ToValidUTF8(line, "?"))
}

func (c *complaints) add(line string, report progress.Func) {
	if text, ok := strings.CutPrefix(line, "I: "); ok {
		if text, ok := strings.CutSuffix(text, "..."); ok {
			report.Step(text)
		}
		return
	}
	if line == "done" {
		return
	}
	c.other = keep(c.other, line)
	for _, prefix := range []string{"E: ", "Err:", "dpkg: error", "N: "} {
		if strings.HasPrefix(line, prefix) {
			c.errors = keep(c.errors, line)
		}
	}
}

func keep(lines []string, line string) []string {
	if len(lines) == keepLines {
		lines = append(lines[:0], lines[1:]...)
	}
	return append(lines, line)
}

// explain puts what is known about a failure in one line.
func (c complaints) explain(err error) string {
	lines := c.errors
	// mmdebstrap's own last words only say that something failed.
	for len(lines) > 1 && lines[len(lines)-1] == "E: mmdebstrap failed to run" {
		lines = lines[:len(lines)-1]
	}
	if len(lines) == 0 || lines[0] == "E: mmdebstrap failed to run" {
		lines = c.other
	}
	if len(lines) == 0 {
		return "mmdebstrap: " + err.Error()
	}
	return strings.Join(lines, "; ")
}
