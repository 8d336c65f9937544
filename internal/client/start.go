package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"banger/internal/api"
	"banger/internal/paths"
)

const (
	// startTimeout is generous: a first start on a loaded machine makes keys
	// and a database.
	startTimeout = 30 * time.Second
	stopTimeout  = 30 * time.Second
)

// Launcher starts bangerd when it is not there, or when another build of it is.
type Launcher struct {
	Client *Client
	Dirs   paths.Dirs
	// Build identifies this build of banger. A bangerd of another build is
	// replaced, which VMs do not notice.
	Build string
	// Program is bangerd's path; empty means to look beside this executable
	// and then in PATH.
	Program string
}

// Ensure returns when a bangerd of this build answers.
func (l *Launcher) Ensure(ctx context.Context) (api.Daemon, error) {
	daemon, err := l.Client.Daemon(ctx)
	if err == nil && daemon.Build == l.Build {
		return daemon, nil
	}
	switch {
	case err == nil:
		stopCtx, cancel := context.WithTimeout(ctx, stopTimeout)
		defer cancel()
		// Another banger may have been faster.
		if err := l.Client.StopDaemon(stopCtx); err != nil && !errors.Is(err, ErrNotRunning) {
			return api.Daemon{}, fmt.Errorf("cannot replace the running bangerd of another build: %w", err)
		}
	case !errors.Is(err, ErrNotRunning) && !isGone(err): // gone: it was killed just now
		return api.Daemon{}, err
	}
	return l.start(ctx)
}

func (l *Launcher) start(ctx context.Context) (api.Daemon, error) {
	if err := l.Dirs.Make(); err != nil {
		return api.Daemon{}, err
	}
	program, err := l.Find()
	if err != nil {
		return api.Daemon{}, err
	}
	log, err := os.OpenFile(l.Dirs.DaemonLog(), os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o600)
	if err != nil {
		return api.Daemon{}, fmt.Errorf("cannot open bangerd's log: %w", err)
	}
	defer log.Close()
	before, err := log.Seek(0, io.SeekEnd)
	if err != nil {
		return api.Daemon{}, fmt.Errorf("cannot read bangerd's log: %w", err)
	}

	if err := keepFiles(); err != nil {
		return api.Daemon{}, fmt.Errorf("cannot start bangerd: %w", err)
	}
	// Not CommandContext: bangerd outlives this process.
	cmd := exec.Command(program) //nolint:noctx // see above
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return api.Daemon{}, fmt.Errorf("cannot start bangerd: %w", err)
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }()

	ctx, cancel := context.WithTimeoutCause(ctx, startTimeout, errors.New("it does not answer on its socket"))
	defer cancel()
	var died error
	for {
		daemon, err := l.Client.Daemon(ctx)
		switch {
		case err == nil:
			return daemon, nil
		case ctx.Err() != nil:
			return api.Daemon{}, startFailed(log, before, context.Cause(ctx))
		case died != nil:
			// One that lost the race against another banger's bangerd exits
			// too, but then the other one was there to answer just now.
			return api.Daemon{}, startFailed(log, before, died)
		case !errors.Is(err, ErrNotRunning) && !isGone(err):
			return api.Daemon{}, err
		}
		select {
		case err := <-exited:
			died = errors.Join(err)
			if died == nil {
				died = errors.New("it ended at once")
			}
			if !l.wait(ctx) {
				return api.Daemon{}, startFailed(log, before, died)
			}
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

// wait gives the winner of a race for the socket a moment to listen: it has
// the lock before that. It reports whether anyone answers.
func (l *Launcher) wait(ctx context.Context) bool {
	for range 40 {
		conn, err := l.Client.dial(ctx)
		if err == nil {
			conn.Close()
			return true
		}
		if !l.locked() || pause(ctx, 50*time.Millisecond) != nil {
			return false
		}
	}
	return false
}

// locked reports whether some bangerd holds the lock.
func (l *Launcher) locked() bool {
	lock, err := os.Open(l.Dirs.Lock())
	if err != nil {
		return false
	}
	defer lock.Close()
	return syscall.Flock(int(lock.Fd()), syscall.LOCK_SH|syscall.LOCK_NB) != nil
}

func isGone(err error) bool {
	answered, ok := errors.AsType[*api.Error](err)
	return ok && answered.Kind == api.KindInternal
}

// Find returns the path of bangerd.
func (l *Launcher) Find() (string, error) {
	if l.Program != "" {
		return l.Program, nil
	}
	if self, err := os.Executable(); err == nil {
		if followed, err := filepath.EvalSymlinks(self); err == nil {
			self = followed
		}
		beside := filepath.Join(filepath.Dir(self), "bangerd")
		if info, err := os.Stat(beside); err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o111 != 0 {
			return beside, nil
		}
	}
	program, err := exec.LookPath("bangerd")
	if err != nil {
		return "", &api.Error{
			Kind:    api.KindState,
			Message: "cannot start bangerd: it is neither beside banger nor in PATH",
			Hint:    "install it with: make install",
		}
	}
	return program, nil
}

// keepFiles keeps from bangerd, and so from VMs, what this process was handed
// open: a lock or a pipe of a script would be held for as long as they run.
func keepFiles() error {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if fd, err := strconv.Atoi(entry.Name()); err == nil && fd > 2 {
			syscall.CloseOnExec(fd)
		}
	}
	return nil
}

// startFailed makes an error of what a bangerd that would not start has
// written since the offset before: its last words, of the form
// "bangerd: message" and maybe "hint: what to do", if there are any.
func startFailed(log io.ReaderAt, before int64, cause error) error {
	const most = 64 << 10
	text, err := io.ReadAll(io.NewSectionReader(log, before, most))
	if err != nil {
		text = nil
	}
	failed := &api.Error{Kind: api.KindState, Hint: "'banger daemon logs' may say more"}
	var last string
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if line == "" {
			continue
		}
		last = line
		if message, ok := strings.CutPrefix(line, "bangerd: "); ok {
			failed.Message = "cannot start bangerd: " + message
		}
		if hint, ok := strings.CutPrefix(line, "hint: "); ok && failed.Message != "" {
			failed.Hint = hint
		}
	}
	if failed.Message == "" {
		failed.Message = fmt.Sprintf("cannot start bangerd: %v", cause)
		if last != "" {
			failed.Message += "; its log ends with: " + last
		}
	}
	return failed
}
