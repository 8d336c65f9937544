// Package pipe reads what a program writes, while it writes it.
package pipe

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"

	"banger/internal/excerpt"
)

// maxLine is how much, in bytes, an error has at most of what a program says.
const maxLine = 4 << 10

// Open starts a program that reads in, or nothing if that is nil. It must be
// closed, which ends the program and all that it has started, as the end of ctx
// does, and waits for a read of in that is under way. The end of what the
// program writes is an error if the program fails: that of ctx or in if they
// are the cause, else the first that the program has complained of.
func Open(ctx context.Context, in io.Reader, name string, args ...string) (io.ReadCloser, error) {
	running, end := context.WithCancel(ctx)
	cmd := exec.CommandContext(running, name, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error {
		err := syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		if errors.Is(err, syscall.ESRCH) {
			return os.ErrProcessDone
		}
		return err
	}
	r := &reader{ctx: ctx, end: end, cmd: cmd, said: excerpt.Writer{Limit: maxLine}}
	cmd.Stderr = &r.said
	if in != nil {
		r.in = &source{Reader: in}
		cmd.Stdin = r.in
	}
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		end()
		return nil, err
	}
	r.out = out
	return r, nil
}

type reader struct {
	ctx  context.Context
	end  context.CancelFunc
	cmd  *exec.Cmd
	in   *source // nil if there is none
	out  io.Reader
	said excerpt.Writer
	err  error // set when all was read
}

func (r *reader) Read(p []byte) (int, error) {
	if r.err != nil {
		return 0, r.err
	}
	n, err := r.out.Read(p)
	if errors.Is(err, io.EOF) {
		if failed := r.wait(); failed != nil {
			err = failed
		}
	}
	r.err = err
	return n, err
}

// wait returns why the program has failed, or nil.
func (r *reader) wait() error {
	failed := r.cmd.Wait()
	switch said := r.said.FirstLine(); {
	case failed == nil:
		return nil
	case r.ctx.Err() != nil:
		return r.ctx.Err()
	case r.in != nil && r.in.err != nil:
		return r.in.err
	case said != "":
		return errors.New(said)
	}
	return fmt.Errorf("%s: %w", r.cmd.Args[0], failed)
}

func (r *reader) Close() error {
	r.end()
	_ = r.cmd.Wait() // of no interest any more; an error if Read has waited
	return nil
}

// source keeps the error that a program cannot tell of.
type source struct {
	io.Reader
	err error
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.Reader.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		s.err = err
	}
	return n, err
}
