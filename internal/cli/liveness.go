package cli

import (
	"context"
	"errors"
	"io"
	"sync"
	"syscall"
	"time"

	"banger/internal/agent"
	"banger/internal/api"
)

// answerTimeout is how long a guest may take to show that it is there once
// somebody wants its command to end. One on a busy host takes a second.
const answerTimeout = 10 * time.Second

// answers asks a guest whether it is there. That it has ended is an answer.
func answers(ctx context.Context, guest *agent.Client) error {
	_, err := guest.Hello(ctx)
	if known, ok := errors.AsType[*api.Error](err); ok && (known.Kind == api.KindState || known.Kind == api.KindNotFound) {
		return nil
	}
	return err
}

// liveness finds out whether a guest is there at all: one that answers stays in
// charge of its command, one that hangs must not trap whoever waits for it.
type liveness struct {
	// answer asks the guest.
	answer func(ctx context.Context) error
	within time.Duration
	giveUp context.CancelCauseFunc

	mu    sync.Mutex
	asked time.Time // zero if no answer is due
}

// doubt is called with each signal that is meant for the guest's command: the
// guest has the whole time to answer, or a fifth of it once another one comes.
// It does not block.
func (l *liveness) doubt(ctx context.Context, number syscall.Signal) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.asked.IsZero() {
		if time.Since(l.asked) > l.within/5 {
			l.giveUp(&interruptedError{signal: number, silent: true})
		}
		return
	}
	l.asked = time.Now()
	go func() {
		askCtx, cancel := context.WithTimeout(ctx, l.within)
		defer cancel()
		if err := l.answer(askCtx); err != nil {
			// Where ctx has ended that changes nothing.
			l.giveUp(&interruptedError{signal: number, silent: true})
			return
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		l.asked = time.Time{}
	}()
}

// keyboard is a terminal in raw mode, where the keys that interrupt are bytes
// like others.
type keyboard struct {
	io.Reader
	interrupted func(number syscall.Signal)
}

func (k *keyboard) Read(b []byte) (int, error) {
	n, err := k.Reader.Read(b)
	for _, key := range b[:n] {
		switch key {
		case 'C' - '@':
			k.interrupted(syscall.SIGINT)
		case '\\' - '@':
			k.interrupted(syscall.SIGQUIT)
		}
	}
	return n, err
}
