package daemon

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/api"
)

// streams are the connections that were upgraded: http.Server no longer knows
// them.
type streams struct {
	mu     sync.Mutex
	conns  map[net.Conn]struct{}
	closed bool
	wait   sync.WaitGroup
}

func (s *streams) add(conn net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	if s.conns == nil {
		s.conns = make(map[net.Conn]struct{})
	}
	s.conns[conn] = struct{}{}
	s.wait.Add(1)
	return true
}

func (s *streams) remove(conn net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.conns, conn)
	s.wait.Done()
}

// close ends all streams and waits for those who serve them.
func (s *streams) close() {
	s.mu.Lock()
	s.closed = true
	for conn := range s.conns {
		conn.Close()
	}
	s.mu.Unlock()
	s.wait.Wait()
}

// upgraded is a connection taken over from http.Server.
type upgraded struct {
	net.Conn
	reader *bufio.Reader // may hold what the client sent early
	done   func()
}

func (u *upgraded) Read(p []byte) (int, error) { return u.reader.Read(p) }

func (u *upgraded) CloseWrite() error { return closeWrite(u.Conn) }

// close ends the stream.
func (u *upgraded) close() {
	u.Close()
	u.done()
}

// upgrade takes the connection over if the client asked for the protocol. After
// a false it has been answered.
func (s *Server) upgrade(w http.ResponseWriter, r *http.Request, protocol string) (*upgraded, bool) {
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		s.fail(w, r, fmt.Errorf("cannot take the connection over: %w", err))
		return nil, false
	}
	if !s.streams.add(conn) {
		conn.Close()
		return nil, false
	}
	stream := &upgraded{Conn: conn, reader: buffered.Reader, done: func() { s.streams.remove(conn) }}
	// Hijack leaves deadlines as they are.
	err = conn.SetDeadline(time.Time{})
	if err == nil {
		_, err = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+protocol+"\r\n\r\n")
	}
	if err != nil {
		stream.close()
		return nil, false
	}
	return stream, true
}

func wants(r *http.Request, protocol string) error {
	if strings.EqualFold(r.Header.Get("Upgrade"), protocol) {
		return nil
	}
	return &api.Error{Kind: api.KindUsage, Message: "this needs the header Upgrade: " + protocol}
}

// agent joins the client and a new stream of the agent in a guest.
func (s *Server) agent(w http.ResponseWriter, r *http.Request) {
	const protocol = "banger-agent"
	if err := wants(r, protocol); err != nil {
		s.fail(w, r, err)
		return
	}
	guest, err := s.VMs.DialAgent(r.Context(), r.PathValue("ref"))
	if err != nil {
		s.fail(w, r, err)
		return
	}
	defer guest.Close()
	client, ok := s.upgrade(w, r, protocol)
	if !ok {
		return
	}
	defer client.close()
	defer closeWhenGone(r.Context(), client)()
	splice(client, guest)
}

// goneInterval is how often it is looked whether a client is still there.
const goneInterval = 500 * time.Millisecond

// closeWhenGone closes the connection of a client that has closed it whole: a
// reader cannot tell that from one that has closed only its half, and waits for
// what the guest has to say.
func closeWhenGone(ctx context.Context, client *upgraded) (stop func()) {
	// A connection that was taken over has no say in its request any more.
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan struct{})
	go func() {
		defer close(done)
		for sleep(ctx, goneInterval) {
			if gone(client.Conn) {
				client.Close()
				return
			}
		}
	}()
	return func() { cancel(); <-done }
}

func gone(conn net.Conn) bool {
	socket, ok := conn.(*net.UnixConn)
	if !ok {
		return false
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return true
	}
	hungUp := false
	if err := raw.Control(func(fd uintptr) {
		fds := []unix.PollFd{{Fd: int32(fd)}} // POLLHUP needs no asking for
		n, err := unix.Poll(fds, 0)
		hungUp = err == nil && n > 0 && fds[0].Revents&(unix.POLLHUP|unix.POLLERR) != 0
	}); err != nil {
		return true
	}
	return hungUp
}

// splice copies both ways until both have ended: the end of one direction goes
// on as one, so that the other can still say what it has to. A failure ends
// both.
func splice(a, b net.Conn) {
	var wait sync.WaitGroup
	for _, way := range [][2]net.Conn{{a, b}, {b, a}} {
		wait.Go(func() {
			from, to := way[0], way[1]
			_, err := io.CopyBuffer(struct{ io.Writer }{to}, struct{ io.Reader }{from}, make([]byte, 64<<10))
			if err == nil {
				err = closeWrite(to)
			}
			if err != nil {
				from.Close()
				to.Close()
			}
		})
	}
	wait.Wait()
}

func closeWrite(conn net.Conn) error {
	half, ok := conn.(interface{ CloseWrite() error })
	if !ok {
		return errors.ErrUnsupported
	}
	return half.CloseWrite()
}

// hold keeps an ephemeral VM as long as the connection is open.
func (s *Server) hold(w http.ResponseWriter, r *http.Request) {
	const protocol = "banger-hold"
	if err := wants(r, protocol); err != nil {
		s.fail(w, r, err)
		return
	}
	release, err := s.VMs.Hold(r.PathValue("ref"))
	if err != nil {
		s.fail(w, r, err)
		return
	}
	defer release()
	client, ok := s.upgrade(w, r, protocol)
	if !ok {
		return
	}
	defer client.close()
	// The end is all that counts.
	_, _ = io.Copy(io.Discard, client)
}

// followInterval is how often a log that is followed is looked at.
const followInterval = 100 * time.Millisecond

// logs sends a log, and with follow what is added until the client goes away
// or the VM is deleted. A log that begins anew, at a start, is sent from its
// begin.
func (s *Server) logs(w http.ResponseWriter, r *http.Request) {
	path, err := s.VMs.LogPath(r.PathValue("ref"), r.FormValue("source"))
	if err != nil {
		s.fail(w, r, err)
		return
	}
	file, err := os.Open(path)
	if err != nil {
		s.fail(w, r, fmt.Errorf("cannot read the log: %w", err))
		return
	}
	defer func() { file.Close() }()
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	control := http.NewResponseController(w)
	// What was cut off is a hole.
	offset, err := unix.Seek(int(file.Fd()), 0, unix.SEEK_DATA)
	if err != nil {
		offset = 0 // there is none yet, or holes are not known here
	}
	for {
		n, err := io.Copy(w, io.NewSectionReader(file, offset, 1<<62-offset))
		offset += n
		if err == nil && (n > 0 || offset == 0) {
			err = control.Flush()
		}
		if err != nil || r.FormValue("follow") != "1" {
			return
		}
		if !sleep(r.Context(), followInterval) {
			return
		}
		next, begun, err := reopen(file, path, offset)
		if err != nil {
			return // deleted
		}
		if begun {
			offset = 0
		}
		file = next
	}
}

// reopen returns the file that is at path now, which may be file itself, and
// whether it has to be read from its begin.
func reopen(file *os.File, path string, offset int64) (*os.File, bool, error) {
	now, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, false, err
	}
	if err != nil {
		return nil, false, err
	}
	have, err := file.Stat()
	if err != nil {
		return nil, false, err
	}
	if os.SameFile(have, now) {
		return file, now.Size() < offset, nil
	}
	next, err := os.Open(path)
	if err != nil {
		return nil, false, err
	}
	file.Close()
	return next, true, nil
}

func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
