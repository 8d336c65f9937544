package cli

import (
	"context"
	"os"
	"os/signal"
	"sync"
	"syscall"
)

// interruptedError is the cause of a context that a signal ended.
type interruptedError struct {
	signal syscall.Signal
	// silent says that the guest was told and did not answer.
	silent bool
}

func (e *interruptedError) Error() string {
	if e.silent {
		return "canceled: the guest did not answer, and what ran in it may still run"
	}
	return "canceled"
}

// status is what shells report for a process that this signal ended.
func (e *interruptedError) status() int { return 128 + int(e.signal) }

// signals decides what a signal does: cancel the command the first time and
// end the process the second, or go to whoever has taken them over.
type signals struct {
	incoming chan os.Signal
	cancel   context.CancelCauseFunc
	done     chan struct{}

	mu      sync.Mutex
	handler func(syscall.Signal)
}

// watchSignals returns a context that ends with the first signal.
func watchSignals(ctx context.Context) (context.Context, *signals) {
	ctx, cancel := context.WithCancelCause(ctx)
	s := &signals{incoming: make(chan os.Signal, 16), cancel: cancel, done: make(chan struct{})}
	signal.Notify(s.incoming, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	go s.watch()
	return ctx, s
}

func (s *signals) watch() {
	for {
		select {
		case received := <-s.incoming:
			number, ok := received.(syscall.Signal)
			if !ok {
				continue
			}
			s.mu.Lock()
			handler := s.handler
			s.mu.Unlock()
			if handler != nil {
				handler(number)
				continue
			}
			// From here on signals do what they do to any process.
			signal.Stop(s.incoming)
			s.cancel(&interruptedError{signal: number})
		case <-s.done:
			return
		}
	}
}

// take gives signals to handler until the returned function is called.
// handler must not block for long.
func (s *signals) take(handler func(syscall.Signal)) (giveBack func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.handler = handler
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.handler = nil
	}
}

func (s *signals) stop() {
	signal.Stop(s.incoming)
	close(s.done)
	s.cancel(nil)
}
