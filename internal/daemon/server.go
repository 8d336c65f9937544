// Package daemon is bangerd: it answers the requests of internal/api on a unix
// socket that is the user's own.
package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"runtime/debug"
	"strings"
	"sync"
	"time"

	"banger/internal/api"
	"banger/internal/paths"
	"banger/internal/progress"
	"banger/internal/vm"
)

// Catalog is what there is of images or kernels. T is [api.Image] or
// [api.Kernel].
type Catalog[T any] interface {
	// List returns what is in the store and, if available is set, also what
	// this binary can make.
	List(available bool) ([]T, error)
	// Available is List with what the catalogs of the configuration have.
	Available(ctx context.Context, report progress.Func) ([]T, error)
	Get(name string) (T, error)
	Pull(ctx context.Context, request api.Pull, report progress.Func) (T, error)
	Import(ctx context.Context, request api.Import, report progress.Func) (T, error)
	Export(ctx context.Context, name string, request api.Export, report progress.Func) (api.Exported, error)
	// Delete removes one that no VM needs.
	Delete(ctx context.Context, name string) error
}

// Server answers requests.
type Server struct {
	VMs     *vm.Manager
	Images  Catalog[api.Image]
	Kernels Catalog[api.Kernel]
	// Commit, Register and PruneImages are what only images have.
	Commit      func(ctx context.Context, vm string, request api.Commit, report progress.Func) (api.Image, error)
	Register    func(ctx context.Context, request api.Register, report progress.Func) (api.Image, error)
	PruneImages func(ctx context.Context, dryRun bool) (api.Pruned, error)
	// About is what GET /v1/daemon answers but for the number of VMs.
	About api.Daemon
	// Stop is called once the client has been told that bangerd stops.
	Stop func()
	Log  *slog.Logger

	streams streams
	names   names
}

// maxRequest bounds a request's body.
const maxRequest = 1 << 20

// Handler returns the handler of all requests.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	s.daemonRoutes(mux)
	s.vmRoutes(mux)
	s.imageRoutes(mux)
	catalogRoutes(s, mux, "images", s.Images, func(*http.Request) bool { return true })
	catalogRoutes(s, mux, "kernels", s.Kernels, func(r *http.Request) bool { return r.FormValue("available") == "1" })
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		s.fail(w, r, &api.Error{Kind: api.KindNotFound, Message: fmt.Sprintf("bangerd does not know %s %s", r.Method, r.URL.Path)})
	})
	return s.guard(mux)
}

func (s *Server) daemonRoutes(mux *http.ServeMux) {
	mux.Handle("GET /v1/daemon", s.answer(func(*http.Request) (any, error) {
		about := s.About
		about.VMs = s.VMs.Count()
		return about, nil
	}))
	mux.HandleFunc("POST /v1/daemon/stop", func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusNoContent)
		s.Stop()
	})
}

// guard refuses what no banger sends, and keeps a panic from ending bangerd.
func (s *Server) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		began := time.Now()
		tracked := &tracker{ResponseWriter: w}
		defer func() { //nolint:contextcheck // the request's context is in r
			if value := recover(); value != nil {
				if err, ok := value.(error); ok && errors.Is(err, http.ErrAbortHandler) {
					panic(value)
				}
				s.Log.ErrorContext(r.Context(), "panic in a request", "method", r.Method, "path", r.URL.Path, "panic", fmt.Sprint(value), "stack", string(debug.Stack()))
				if tracked.begun {
					// The client sees that the answer broke off.
					panic(http.ErrAbortHandler)
				}
				s.fail(w, r, errors.New("bangerd had an internal error; its log has the details"))
			}
			s.Log.DebugContext(r.Context(), "request", "method", r.Method, "path", r.URL.Path, "duration", time.Since(began))
		}()
		// A browser on this host must not be able to get here by whatever
		// proxy in between.
		if r.Host != "bangerd" || r.Header.Get("Origin") != "" || r.Header.Get("Referer") != "" {
			s.fail(tracked, r, &api.Error{Kind: api.KindUsage, Message: "bangerd only answers banger"})
			return
		}
		next.ServeHTTP(tracked, r)
	})
}

// tracker notes whether an answer has begun.
type tracker struct {
	http.ResponseWriter
	begun bool
}

func (t *tracker) WriteHeader(status int) {
	t.begun = true
	t.ResponseWriter.WriteHeader(status)
}

func (t *tracker) Write(p []byte) (int, error) {
	t.begun = true
	return t.ResponseWriter.Write(p)
}

// Unwrap is for [http.ResponseController].
func (t *tracker) Unwrap() http.ResponseWriter { return t.ResponseWriter }

// answer makes a handler of a function that returns what is sent as JSON; nil
// is an answer without a body.
func (s *Server) answer(handle func(*http.Request) (any, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		result, err := handle(r)
		if err != nil {
			s.fail(w, r, err)
			return
		}
		if result == nil {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(result); err != nil {
			s.Log.DebugContext(r.Context(), "client went away", "path", r.URL.Path, "error", err)
		}
	})
}

// events makes a handler of an operation that reports its progress. The
// operation's context ends when the client closes its half of the connection.
func (s *Server) events(operate func(ctx context.Context, r *http.Request, body []byte, report progress.Func) (any, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// The whole body has to be read for the end of the client to be seen.
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxRequest))
		if err != nil {
			s.fail(w, r, &api.Error{Kind: api.KindUsage, Message: fmt.Sprintf("cannot read the request: %v", err)})
			return
		}
		w.Header().Set("Content-Type", "application/x-ndjson")
		control := http.NewResponseController(w)
		var mu sync.Mutex
		send := func(event api.Event) { //nolint:contextcheck // the request's context is in r
			mu.Lock()
			defer mu.Unlock()
			err := json.NewEncoder(w).Encode(event)
			if err == nil {
				err = control.Flush()
			}
			if err != nil {
				s.Log.DebugContext(r.Context(), "client went away", "path", r.URL.Path, "error", err)
			}
		}
		result, err := operate(r.Context(), r, body, func(event progress.Event) { send(api.Event{Progress: &event}) })
		var data []byte
		if err == nil {
			data, err = json.Marshal(result)
		}
		if err != nil {
			s.note(r, err)
			send(api.Event{Error: apiError(err)})
			return
		}
		send(api.Event{Result: data})
	})
}

// decode reads a JSON body; none leaves into as it is.
func decode(body []byte, into any) error {
	if len(body) == 0 {
		return nil
	}
	if err := json.Unmarshal(body, into); err != nil {
		return &api.Error{Kind: api.KindUsage, Message: fmt.Sprintf("cannot understand the request: %v", err)}
	}
	return nil
}

func decodeBody(r *http.Request, into any) error {
	body, err := io.ReadAll(io.LimitReader(r.Body, maxRequest))
	if err != nil {
		return &api.Error{Kind: api.KindUsage, Message: fmt.Sprintf("cannot read the request: %v", err)}
	}
	return decode(body, into)
}

// apiError makes what the user gets to see of an error.
func apiError(err error) *api.Error {
	shown := api.Error{Kind: api.KindInternal}
	if known := (*api.Error)(nil); errors.As(err, &known) {
		shown = *known
	} else if refused := (*paths.Error)(nil); errors.As(err, &refused) {
		shown.Kind, shown.Hint = api.KindState, refused.Hint
	} else if errors.Is(err, context.Canceled) {
		shown.Kind = api.KindCanceled
	}
	// What is wrapped around an error says more; what is joined is one line.
	shown.Message = strings.ReplaceAll(err.Error(), "\n", "; ")
	return &shown
}

func status(kind api.Kind) int {
	switch kind {
	case api.KindUsage:
		return http.StatusBadRequest
	case api.KindNotFound:
		return http.StatusNotFound
	case api.KindAmbiguous, api.KindExists, api.KindState, api.KindInUse:
		return http.StatusConflict
	case api.KindNoSpace:
		return http.StatusInsufficientStorage
	case api.KindCanceled:
		return http.StatusServiceUnavailable
	case api.KindInternal:
	}
	return http.StatusInternalServerError
}

// note logs an error that is bangerd's and not the user's.
func (s *Server) note(r *http.Request, err error) {
	level := slog.LevelDebug
	if kind := apiError(err).Kind; kind == api.KindInternal || kind == api.KindNoSpace {
		level = slog.LevelError
	}
	s.Log.Log(r.Context(), level, "request failed", "method", r.Method, "path", r.URL.Path, "error", err)
}

func (s *Server) fail(w http.ResponseWriter, r *http.Request, err error) {
	s.note(r, err)
	shown := apiError(err)
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status(shown.Kind))
	if err := json.NewEncoder(w).Encode(shown); err != nil {
		s.Log.DebugContext(r.Context(), "client went away", "path", r.URL.Path, "error", err)
	}
}
