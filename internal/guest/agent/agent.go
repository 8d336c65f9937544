// Package agent answers the host inside the guest: HTTP on the agent channel,
// as described in package wire.
package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"

	"banger/internal/agent/wire"
	"banger/internal/guest/rootfs"
)

// Guest is the system the agent runs in. Its methods may be called from any
// goroutine.
type Guest interface {
	// Hello fills in everything but the protocol's version.
	Hello() wire.Hello
	// Configure applies a configuration; at boot it waits for the root first.
	Configure(ctx context.Context, configuration wire.Configuration) error
	// Root is nil until the guest is configured.
	Root() *rootfs.FS
	// Ready waits until the guest's init has settled.
	Ready(ctx context.Context) (wire.Ready, error)
	// Shutdown begins a clean end.
	Shutdown(ctx context.Context, shutdown wire.Shutdown) error
}

// Server answers the host. Create it with New.
type Server struct {
	guest Guest
	log   *slog.Logger
	http  *http.Server

	mu       sync.Mutex
	programs map[*program]struct{}
	stopping atomic.Bool
}

// New returns a server for the guest.
func New(guest Guest, log *slog.Logger) *Server {
	s := &Server{guest: guest, log: log, programs: map[*program]struct{}{}}
	mux := http.NewServeMux()
	handle := func(pattern string, h func(http.ResponseWriter, *http.Request) error) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			// A host that is gone must not leave a handler in a write.
			defer context.AfterFunc(r.Context(), func() {
				_ = http.NewResponseController(w).SetWriteDeadline(past)
			})()
			if err := h(w, r); err != nil {
				s.fail(w, r, err)
			}
		})
	}
	handle("GET /v1/hello", s.hello)
	handle("PUT /v1/configuration", s.configure)
	handle("GET /v1/ready", s.ready)
	handle("POST /v1/exec", s.exec)
	handle("PUT /v1/files", s.upload)
	handle("GET /v1/files", s.download)
	handle("GET /v1/system", s.system)
	handle("GET /v1/ports", s.ports)
	handle("GET /v1/stats", s.stats)
	handle("POST /v1/dial", s.dial)
	handle("POST /v1/shutdown", s.shutdown)
	s.http = &http.Server{
		Handler:           mux,
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       headerTimeout,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	return s
}

// Serve answers on the connections of l until Close.
func (s *Server) Serve(l net.Listener) error {
	err := s.http.Serve(l)
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// Close ends the server and every program that it runs for the host.
func (s *Server) Close() error {
	s.stopping.Store(true)
	err := s.http.Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	for p := range s.programs {
		p.conn.Close()
	}
	return err
}

// broken is an answer that failed after its begin: the stream must break off.
type broken struct{ error }

func (s *Server) fail(w http.ResponseWriter, r *http.Request, err error) {
	if r.Context().Err() != nil {
		return
	}
	if _, ok := errors.AsType[broken](err); ok {
		s.log.WarnContext(r.Context(), "answer broke off", "path", r.URL.Path, "error", err)
		panic(http.ErrAbortHandler)
	}
	answer, ok := errors.AsType[*wire.Error](err)
	if !ok {
		answer = &wire.Error{Message: err.Error()}
		if errors.Is(err, fs.ErrNotExist) {
			answer.Kind = wire.ErrNotFound
		}
	}
	status := http.StatusInternalServerError
	switch answer.Kind {
	case wire.ErrNotFound:
		status = http.StatusNotFound
	case wire.ErrNotExecutable:
		status = http.StatusForbidden
	case wire.ErrNotConfigured:
		status = http.StatusConflict
	case wire.ErrRefused:
		status = http.StatusBadGateway
	case wire.ErrBadRequest:
		status = http.StatusBadRequest
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	// A host that is gone does not care.
	_ = json.NewEncoder(w).Encode(answer)
}

func (s *Server) root() (*rootfs.FS, error) {
	root := s.guest.Root()
	if root == nil {
		return nil, &wire.Error{Kind: wire.ErrNotConfigured, Message: "the guest is not configured yet"}
	}
	return root, nil
}

func badRequest(format string, args ...any) error {
	return &wire.Error{Kind: wire.ErrBadRequest, Message: fmt.Sprintf(format, args...)}
}

// maxBody bounds a JSON request; entropy, keys and an environment fit easily.
const maxBody = 4 << 20

func decode(r *http.Request, into any) error {
	if err := json.NewDecoder(io.LimitReader(r.Body, maxBody)).Decode(into); err != nil {
		return badRequest("cannot understand the request: %v", err)
	}
	return nil
}

func answer(w http.ResponseWriter, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("cannot encode the answer: %w", err)
	}
	w.Header().Set("Content-Type", "application/json")
	_, err = w.Write(b)
	return err
}

func (s *Server) hello(w http.ResponseWriter, _ *http.Request) error {
	hello := s.guest.Hello()
	hello.Version = wire.Version
	return answer(w, hello)
}

func (s *Server) configure(w http.ResponseWriter, r *http.Request) error {
	var configuration wire.Configuration
	if err := decode(r, &configuration); err != nil {
		return err
	}
	if err := s.guest.Configure(r.Context(), configuration); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *Server) ready(w http.ResponseWriter, r *http.Request) error {
	ready, err := s.guest.Ready(r.Context())
	if err != nil {
		return err
	}
	return answer(w, ready)
}

func (s *Server) shutdown(w http.ResponseWriter, r *http.Request) error {
	var shutdown wire.Shutdown
	if err := decode(r, &shutdown); err != nil {
		return err
	}
	if err := s.guest.Shutdown(r.Context(), shutdown); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// hijack answers an upgrade and returns the stream. It is closed when the
// function returns an error only.
func hijack(w http.ResponseWriter, r *http.Request, protocol string) (net.Conn, *wire.FrameReader, error) {
	// What is left of the body would be taken for the first frame.
	if _, err := io.Copy(io.Discard, io.LimitReader(r.Body, maxBody)); err != nil {
		return nil, nil, badRequest("cannot read the request: %v", err)
	}
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil, nil, fmt.Errorf("cannot take the connection over: %w", err)
	}
	if _, err := io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: "+protocol+"\r\n\r\n"); err != nil {
		conn.Close()
		return nil, nil, broken{err}
	}
	return conn, wire.NewFrameReader(buffered.Reader), nil
}

// upgradable checks what can only be answered before hijack.
func upgradable(r *http.Request, protocol string) error {
	if r.Header.Get("Upgrade") != protocol {
		return badRequest("this request needs the upgrade %q", protocol)
	}
	return nil
}
