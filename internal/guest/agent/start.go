package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/agent/wire"
	"banger/internal/guest/rootfs"
)

const (
	home        = "/root"
	defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
)

// started is a program that runs, with this end of its streams.
type started struct {
	process *os.Process
	tty     *os.File
	stdin   *os.File
	outputs []output
}

type output struct {
	file  *os.File
	frame wire.FrameType
}

func (s *started) close() {
	s.stdin.Close()
	for _, o := range s.outputs {
		o.file.Close()
	}
}

// abandon ends a program that nobody will ever serve.
func (s *started) abandon() {
	// It is our child and not waited for: it is there.
	_ = s.process.Kill()
	_, _ = s.process.Wait()
	s.close()
}

// start runs a program inside the root.
func start(root *rootfs.FS, req wire.ExecRequest) (*started, error) {
	if len(req.Args) == 0 || req.Args[0] == "" {
		return nil, badRequest("there is no program to run")
	}
	for _, s := range slices.Concat(req.Args, req.Env, []string{req.Dir}) {
		if strings.IndexByte(s, 0) >= 0 {
			return nil, badRequest("an argument has a NUL byte in it")
		}
	}
	env := environment(root, req)
	dir := req.Dir
	if dir == "" {
		dir = env["HOME"]
	}
	if info, err := root.Stat(dir); err != nil || !info.IsDir() {
		if req.Dir != "" {
			return nil, badRequest("cannot run %q in %q: there is no such directory", req.Args[0], dir)
		}
		dir = "/"
	}
	program, err := find(root, req.Args[0], env["PATH"], dir)
	if err != nil {
		return nil, err
	}
	files, s, err := openStreams(root, req)
	if err != nil {
		return nil, err
	}
	attr := &os.ProcAttr{
		Dir:   dir,
		Env:   pairs(env),
		Files: files,
		Sys:   &syscall.SysProcAttr{Chroot: root.Chroot(), Setsid: true, Setctty: req.TTY},
	}
	s.process, err = startProcess(program, req.Args, attr)
	for _, file := range files {
		file.Close() // closes a terminal's once more, which does nothing
	}
	if err != nil {
		s.close()
		return nil, startError(req.Args[0], err)
	}
	return s, nil
}

// startProcess is os.StartProcess with what execvp and shells add to it.
func startProcess(program string, args []string, attr *os.ProcAttr) (*os.Process, error) {
	for try := 1; ; try++ {
		process, err := os.StartProcess(program, args, attr)
		switch {
		case errors.Is(err, syscall.ENOEXEC) && program != "/bin/sh":
			// A script without a first line that says what runs it.
			args = slices.Concat([]string{"sh", program}, args[1:])
			program = "/bin/sh"
		case errors.Is(err, syscall.ETXTBSY) && try < 20:
			// Just written: another child, between its fork and its exec, has
			// the file open.
			time.Sleep(time.Duration(try) * time.Millisecond)
		default:
			return process, err
		}
	}
}

func startError(name string, err error) error {
	kind := ""
	switch {
	case errors.Is(err, fs.ErrNotExist):
		kind = wire.ErrNotFound // such as the program that a script names
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM), errors.Is(err, syscall.ENOEXEC), errors.Is(err, syscall.EISDIR):
		kind = wire.ErrNotExecutable
	}
	if e, ok := errors.AsType[*fs.PathError](err); ok {
		err = e.Err
	}
	return &wire.Error{Kind: kind, Message: fmt.Sprintf("cannot run %q: %v", name, err)}
}

// find looks a program up as a shell would. The result is absolute.
func find(root *rootfs.FS, name, search, dir string) (string, error) {
	candidates := []string{name}
	switch {
	case path.IsAbs(name):
	case strings.Contains(name, "/"):
		candidates = []string{path.Join(dir, name)}
	default:
		candidates = nil
		for d := range strings.SplitSeq(search, ":") {
			candidates = append(candidates, path.Join(dirOr(d, dir), name))
		}
	}
	var found error
	for _, c := range candidates {
		info, err := root.Stat(c)
		switch {
		case err != nil:
		case info.IsDir():
			found = syscall.EISDIR
		case info.Mode().Perm()&0o111 == 0:
			found = syscall.EACCES
		default:
			return c, nil
		}
	}
	switch {
	case found != nil && strings.Contains(name, "/"), errors.Is(found, syscall.EACCES):
		return "", startError(name, found)
	case strings.Contains(name, "/"):
		return "", startError(name, syscall.ENOENT)
	}
	return "", &wire.Error{Kind: wire.ErrNotFound, Message: fmt.Sprintf("cannot run %q: there is no such program in the guest", name)}
}

// dirOr resolves an element of PATH, which may be empty or relative.
func dirOr(d, dir string) string {
	if path.IsAbs(d) {
		return d
	}
	return path.Join(dir, d)
}

// maxEnvironment bounds /etc/environment.
const maxEnvironment = 1 << 20

// environment is root's usual one, then what /etc/environment says, then what
// was asked for.
func environment(root *rootfs.FS, req wire.ExecRequest) map[string]string {
	env := map[string]string{
		"PATH":    defaultPath,
		"HOME":    home,
		"USER":    "root",
		"LOGNAME": "root",
		"SHELL":   "/bin/sh",
		"LANG":    "C.UTF-8",
	}
	if _, err := root.Stat("/bin/bash"); err == nil {
		env["SHELL"] = "/bin/bash"
	}
	if req.TTY {
		env["TERM"] = "xterm-256color"
	}
	// A missing or broken file is no reason to run nothing.
	if b, err := root.ReadFile("/etc/environment", maxEnvironment); err == nil {
		maps.Copy(env, parseEnvironment(string(b)))
	}
	for _, kv := range req.Env {
		if k, v, ok := strings.Cut(kv, "="); ok && k != "" {
			env[k] = v
		}
	}
	return env
}

func pairs(env map[string]string) []string {
	var list []string
	for _, k := range slices.Sorted(maps.Keys(env)) {
		list = append(list, k+"="+env[k])
	}
	return list
}

// parseEnvironment reads what pam_env does: lines of KEY=value, perhaps with
// "export" before and quotes around the value.
func parseEnvironment(text string) map[string]string {
	env := map[string]string{}
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "#") {
			continue
		}
		line = strings.TrimSpace(strings.TrimPrefix(line, "export "))
		k, v, ok := strings.Cut(line, "=")
		if !ok || k == "" || strings.ContainsAny(k, " \t\x00") || strings.Contains(v, "\x00") {
			continue
		}
		if n := len(v); n >= 2 && (v[0] == '"' || v[0] == '\'') && v[n-1] == v[0] {
			v = v[1 : n-1]
		}
		env[k] = v
	}
	return env
}

// openStreams makes the program's files and this end of them.
func openStreams(root *rootfs.FS, req wire.ExecRequest) (files []*os.File, s *started, err error) {
	if req.TTY {
		master, slave, err := openTTY(root)
		if err != nil {
			return nil, nil, fmt.Errorf("cannot make a terminal: %w", err)
		}
		if req.Size != nil {
			if err := setSize(master, *req.Size); err != nil {
				master.Close()
				slave.Close()
				return nil, nil, fmt.Errorf("cannot size a terminal: %w", err)
			}
		}
		return []*os.File{slave, slave, slave},
			&started{tty: master, stdin: master, outputs: []output{{master, wire.FrameStdout}}}, nil
	}
	s = &started{}
	pipes := make([]*os.File, 0, 6)
	for range 3 {
		r, w, err := os.Pipe()
		if err != nil {
			for _, file := range pipes {
				file.Close()
			}
			return nil, nil, fmt.Errorf("cannot make a pipe: %w", err)
		}
		pipes = append(pipes, r, w)
		enlarge(w)
	}
	s.stdin = pipes[1]
	s.outputs = []output{{pipes[2], wire.FrameStdout}, {pipes[4], wire.FrameStderr}}
	return []*os.File{pipes[0], pipes[3], pipes[5]}, s, nil
}

// pipeSize lets a program and the agent work on more at a time: each change
// between them is a change of context.
const pipeSize = 1 << 20

// enlarge makes a pipe larger where it may be.
func enlarge(pipe *os.File) {
	raw, err := pipe.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		// A user's sum of pipes may be limited: then it stays as it is.
		_, _ = unix.FcntlInt(fd, unix.F_SETPIPE_SZ, pipeSize)
	})
}

// openTTY makes a terminal in the root's own instance of devpts, which is the
// one next to the ptmx that is opened.
func openTTY(root *rootfs.FS) (master, slave *os.File, err error) {
	master, err = root.OpenFile("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, err
	}
	raw, err := master.SyscallConn()
	if err != nil {
		master.Close()
		return nil, nil, err
	}
	var failed error
	fd := -1
	err = raw.Control(func(m uintptr) {
		if failed = unix.IoctlSetPointerInt(int(m), unix.TIOCSPTLCK, 0); failed != nil {
			return
		}
		peer, _, errno := unix.Syscall(unix.SYS_IOCTL, m, unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
		if fd = int(peer); errno != 0 {
			failed = errno
		}
	})
	if err = errors.Join(err, failed); err != nil {
		master.Close()
		return nil, nil, err
	}
	return master, os.NewFile(uintptr(fd), "tty"), nil
}

func setSize(tty *os.File, size wire.Size) error {
	raw, err := tty.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) {
		failed = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: size.Rows, Col: size.Cols})
	})
	return errors.Join(err, failed)
}

// eofCharacter is what the terminal takes for the end of input.
func eofCharacter(tty *os.File) byte {
	const usual = 4 // ^D
	raw, err := tty.SyscallConn()
	if err != nil {
		return usual
	}
	c := byte(usual)
	_ = raw.Control(func(fd uintptr) {
		if t, err := unix.IoctlGetTermios(int(fd), unix.TCGETS); err == nil {
			c = t.Cc[unix.VEOF]
		}
	})
	return c
}
