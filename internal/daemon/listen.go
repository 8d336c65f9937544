package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"banger/internal/api"
	"banger/internal/paths"
)

// errRunning says that another bangerd answers.
var errRunning = errors.New("another bangerd is running")

// lockTimeout is how long a bangerd that is ending may take: its operations
// get some time to finish.
const lockTimeout = 25 * time.Second

// lockDaemon makes this process the only bangerd until it ends. The error is
// errRunning if another one is; one that only is ending is waited for.
func lockDaemon(ctx context.Context, dirs paths.Dirs) (*os.File, error) {
	ctx, cancel := context.WithTimeout(ctx, lockTimeout)
	defer cancel()
	file, err := lock(ctx, dirs.Lock(), strconv.Itoa(os.Getpid()), func() bool { return answers(ctx, dirs.Socket()) })
	if errors.Is(err, errLocked) {
		return nil, errRunning
	}
	return file, err
}

// lockState keeps a bangerd with another runtime directory away from this
// one's VMs: it would take what is under way here for what a dead one has left.
// That happens when XDG_RUNTIME_DIR is set in one session and not in another,
// or when the directory is removed at a logout.
func lockState(ctx context.Context, dirs paths.Dirs) (*os.File, error) {
	ctx, cancel := context.WithTimeout(ctx, stateLockTimeout)
	defer cancel()
	path := filepath.Join(dirs.State, "bangerd.lock")
	file, err := lock(ctx, path, fmt.Sprintf("pid %d, socket %s", os.Getpid(), dirs.Socket()), func() bool { return false })
	if !errors.Is(err, errLocked) {
		return file, err
	}
	holder, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read the lock: %w", err)
	}
	return nil, &api.Error{
		Kind:    api.KindState,
		Message: fmt.Sprintf("cannot use %q: another bangerd does, with another runtime directory (%s)", dirs.State, strings.TrimSpace(string(holder))),
		Hint:    "set XDG_RUNTIME_DIR as it is there, or end that bangerd; VMs run on",
	}
}

// errLocked says that another process has a lock.
var errLocked = errors.New("another process has the lock")

// lock locks a file until it is closed, and notes in it who has it. While another
// process has it, it waits until ctx ends, or giveUp says so: that is errLocked.
func lock(ctx context.Context, path, holder string, giveUp func() bool) (*os.File, error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot open the lock: %w", err)
	}
	for {
		err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			break
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			return nil, errors.Join(fmt.Errorf("cannot lock %q: %w", path, err), file.Close())
		}
		if giveUp() || !sleep(ctx, 20*time.Millisecond) {
			return nil, errors.Join(errLocked, file.Close())
		}
	}
	if err := note(file, holder); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return file, nil
}

// stateLockTimeout is shorter than what a client waits for an answer: it is to
// be told why there is none.
const stateLockTimeout = 15 * time.Second

// note writes into a lock who has it. That is for people: what counts is the
// lock.
func note(file *os.File, text string) error {
	if err := file.Truncate(0); err != nil {
		return fmt.Errorf("cannot write the lock: %w", err)
	}
	if _, err := file.WriteAt([]byte(text+"\n"), 0); err != nil {
		return fmt.Errorf("cannot write the lock: %w", err)
	}
	return nil
}

func answers(ctx context.Context, socket string) bool {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", socket)
	if err != nil {
		return false
	}
	conn.Close()
	return true
}

// listen opens the socket; the caller holds the lock, so that what is in its
// place is nobody's.
func listen(ctx context.Context, path string, log *slog.Logger) (net.Listener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("cannot remove the old socket: %w", err)
	}
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("cannot listen: %w", err)
	}
	// Until here it is the directory, which is 0700, that keeps others out.
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("cannot make the socket private: %w", err), listener.Close())
	}
	return &ownListener{Listener: listener, uid: os.Getuid(), log: log}, nil
}

// ownListener drops connections of other users.
type ownListener struct {
	net.Listener
	uid int
	log *slog.Logger
}

func (l *ownListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		uid, err := peer(conn)
		if err == nil && uid == l.uid {
			return conn, nil
		}
		l.log.Warn("refused a connection", "uid", uid, "error", err)
		conn.Close()
	}
}

// peer is the user at the other end of a unix socket.
func peer(conn net.Conn) (int, error) {
	socket, ok := conn.(*net.UnixConn)
	if !ok {
		return -1, errors.New("not a unix socket")
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return -1, err
	}
	uid := -1
	var optErr error
	err = raw.Control(func(fd uintptr) {
		var cred *syscall.Ucred
		if cred, optErr = syscall.GetsockoptUcred(int(fd), syscall.SOL_SOCKET, syscall.SO_PEERCRED); optErr == nil {
			uid = int(cred.Uid)
		}
	})
	return uid, errors.Join(err, optErr)
}
