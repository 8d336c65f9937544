package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"banger/internal/agent/wire"
	"banger/internal/api"
	"banger/internal/progress"
)

// fakeGuest is an agent whose programs are made up.
type fakeGuest struct {
	ready   wire.Ready
	mu      sync.Mutex
	ran     []wire.ExecRequest
	running chan struct{} // gets one for each program that runs
	// silent leaves questions unanswered, as a guest that hangs.
	silent bool
}

func (g *fakeGuest) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/v1/ready":
		json.NewEncoder(w).Encode(g.ready)
	case "/v1/exec":
		g.exec(w, r)
	case "/v1/hello":
		if g.silent {
			<-r.Context().Done()
			return
		}
		json.NewEncoder(w).Encode(wire.Hello{Version: wire.Version})
	default:
		w.WriteHeader(http.StatusNotFound)
		json.NewEncoder(w).Encode(wire.Error{Message: "no such path"})
	}
}

func (g *fakeGuest) exec(w http.ResponseWriter, r *http.Request) {
	var request wire.ExecRequest
	if err := json.NewDecoder(r.Body).Decode(&request); err != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	g.mu.Lock()
	g.ran = append(g.ran, request)
	g.mu.Unlock()
	if kind := map[string]string{"missing": wire.ErrNotFound, "text": wire.ErrNotExecutable}[request.Args[0]]; kind != "" {
		w.WriteHeader(http.StatusNotFound)
		json.NewEncoder(w).Encode(wire.Error{Kind: kind, Message: "it says no"})
		return
	}
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", wire.UpgradeExec)
	in, out := wire.NewFrameReader(buffered), wire.NewFrameWriter(conn)
	exit := func(code int) { out.WriteFrame(wire.FrameExit, wire.Exit{Code: code}.Encode()) }
	if g.running != nil {
		g.running <- struct{}{}
	}
	switch request.Args[0] {
	case "seven":
		out.WriteFrame(wire.FrameStdout, []byte("out\n"))
		out.WriteFrame(wire.FrameStderr, []byte("err\n"))
		exit(7)
	case "cat":
		for {
			kind, payload, err := in.ReadFrame()
			switch {
			case err != nil:
				return
			case kind == wire.FrameData:
				out.WriteFrame(wire.FrameStdout, payload)
				out.WriteFrame(wire.FrameCredit, wire.EncodeCredit(len(payload)))
			case kind == wire.FrameEOF:
				exit(0)
				return
			}
		}
	case "wait", "ignore":
		for {
			kind, payload, err := in.ReadFrame()
			if err != nil {
				return
			}
			if kind == wire.FrameSignal && request.Args[0] == "wait" {
				exit(128 + int(payload[0]))
				return
			}
		}
	case "die": // with the VM
	default:
		exit(0)
	}
}

func TestExec(t *testing.T) {
	t.Parallel()
	big := bytes.Repeat([]byte("0123456789abcdef"), 200<<10) // more than one window
	for _, test := range []struct {
		name, args, stdin string
		want              outcome
	}{
		{"status and streams", "vm exec sandbox -- seven", "", outcome{7, "out\n", "err\n", 1}},
		{"without --", "vm exec sandbox seven", "", outcome{7, "out\n", "err\n", 1}},
		{"stdin", "vm exec sandbox -- cat", string(big), outcome{0, string(big), "", 1}},
		{"no stdin", "vm exec -i=false sandbox -- cat", "lost", outcome{0, "", "", 1}},
		{"not found", "vm exec sandbox -- missing", "", outcome{127, "", "banger: it says no\n", 1}},
		{"not executable", "vm exec sandbox -- text", "", outcome{126, "", "banger: it says no\n", 1}},
		{"VM stops", "vm exec old -- die", "", outcome{1, "", "banger: VM \"old\" stopped before \"die\" ended\nhint: 'banger vm logs old' may say why\n", 1}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			daemon := &fakeDaemon{vms: twoVMs(), agent: &fakeGuest{}}
			if got := (run{args: strings.Fields(test.args), stdin: strings.NewReader(test.stdin), daemon: daemon}).do(t); got != test.want {
				t.Errorf("got %.300v, want %.300v", got, test.want)
			}
		})
	}
}

func TestExecRequest(t *testing.T) {
	t.Parallel()
	guest := &fakeGuest{}
	run{args: strings.Fields("vm exec -e A=1 -e B= -w /srv sandbox -- prog --flag -- x"), daemon: &fakeDaemon{vms: twoVMs(), agent: guest}}.do(t)
	if len(guest.ran) != 1 {
		t.Fatalf("ran %v", guest.ran)
	}
	got, _ := json.Marshal(guest.ran[0])
	if want := `{"args":["prog","--flag","--","x"],"env":["A=1","B="],"dir":"/srv"}`; string(got) != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// interruptible runs a command and returns what gives it signals.
func interruptible(t *testing.T, daemon *fakeDaemon, args string, answerTimeout time.Duration) (send func(syscall.Signal), result func() outcome) {
	t.Helper()
	ctx, sig := watchSignals(t.Context())
	t.Cleanup(sig.stop)
	done := make(chan outcome, 1)
	r := run{args: strings.Fields(args), daemon: daemon, ctx: ctx, signals: sig, answerTimeout: answerTimeout}
	go func() { done <- r.do(t) }()
	return func(s syscall.Signal) { sig.incoming <- s }, func() outcome {
		select {
		case got := <-done:
			return got
		case <-time.After(time.Minute):
			t.Fatal("it did not end")
			return outcome{}
		}
	}
}

func TestSignalsReachTheCommand(t *testing.T) {
	t.Parallel()
	guest := &fakeGuest{running: make(chan struct{}, 1)}
	send, result := interruptible(t, &fakeDaemon{vms: twoVMs(), agent: guest}, "vm exec sandbox -- wait", time.Minute)
	<-guest.running
	send(syscall.SIGTERM)
	// One that came before the command was followed cancels, which is as good.
	if got := result(); got.code != 128+int(syscall.SIGTERM) {
		t.Errorf("got %+v", got)
	}
}

func TestThirdInterruptionEndsTheSession(t *testing.T) {
	t.Parallel()
	guest := &fakeGuest{running: make(chan struct{}, 1)}
	send, result := interruptible(t, &fakeDaemon{vms: twoVMs(), agent: guest}, "vm exec sandbox -- ignore", time.Minute)
	<-guest.running
	for range giveUpAfter {
		send(syscall.SIGINT)
	}
	if got := result(); got.code != 130 || got.err != "banger: canceled\n" {
		t.Errorf("got %+v", got)
	}
}

const didNotAnswer = "banger: canceled: the guest did not answer, and what ran in it may still run\n"

func TestSilentGuestIsLeft(t *testing.T) {
	t.Parallel()
	guest := &fakeGuest{running: make(chan struct{}, 1), silent: true}
	send, result := interruptible(t, &fakeDaemon{vms: twoVMs(), agent: guest}, "vm exec sandbox -- ignore", 100*time.Millisecond)
	<-guest.running
	send(syscall.SIGTERM)
	// One that came before the command was followed cancels.
	if got := result(); got.code != 143 || (got.err != didNotAnswer && got.err != "banger: canceled\n") {
		t.Errorf("got %+v", got)
	}
}

func TestSilentEphemeralVMIsDeleted(t *testing.T) {
	t.Parallel()
	vm := twoVMs()[0]
	guest := &fakeGuest{running: make(chan struct{}, 1), silent: true, ready: wire.Ready{State: "none"}}
	daemon := &fakeDaemon{vms: twoVMs(), create: creating(vm), agent: guest}
	send, result := interruptible(t, daemon, "vm run --rm -- ignore", 100*time.Millisecond)
	<-guest.running
	send(syscall.SIGINT)
	if got := result(); got.code != 130 || deleted(daemon, vm.ID) != 1 {
		t.Errorf("got %+v, deleted %d times", got, deleted(daemon, vm.ID))
	}
}

// A guest that answers stays in charge of a command that ignores signals.
func TestLiveness(t *testing.T) {
	t.Parallel()
	for _, silent := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancelCause(t.Context())
			var asked atomic.Int32
			l := &liveness{within: answerTimeout, giveUp: cancel, answer: func(ctx context.Context) error {
				asked.Add(1)
				if silent {
					<-ctx.Done()
				}
				return ctx.Err()
			}}
			keys := &keyboard{strings.NewReader("a\x03\x1cb\x03"), func(number syscall.Signal) { l.doubt(ctx, number) }}
			if text, err := io.ReadAll(keys); err != nil || string(text) != "a\x03\x1cb\x03" {
				t.Errorf("the keys became %q, %v", text, err)
			}
			time.Sleep(answerTimeout / 2)
			if ctx.Err() != nil {
				t.Error("given up too soon")
			}
			l.doubt(ctx, syscall.SIGTERM)
			time.Sleep(time.Second)
			var cause *interruptedError
			switch left := errors.As(context.Cause(ctx), &cause); {
			case left != silent:
				t.Errorf("silent: %v, left: %v", silent, left)
			case left && (cause.signal != syscall.SIGTERM || !cause.silent):
				t.Errorf("the cause is %+v", cause)
			}
			if n := asked.Load(); (n == 1) != silent {
				t.Errorf("silent: %v, asked %d times", silent, n)
			}
			cancel(nil)
			synctest.Wait()
		})
	}
}

func creating(vm api.VM) func(context.Context, api.CreateVM, progress.Func) (api.VM, error) {
	return func(context.Context, api.CreateVM, progress.Func) (api.VM, error) { return vm, nil }
}

// deleted reports how often the VM was asked to be deleted by force.
func deleted(d *fakeDaemon, id string) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := 0
	for _, request := range d.requests {
		if request == `DELETE /v1/vms/`+id+` {"force":true}` {
			n++
		}
	}
	return n
}

func TestRunCommand(t *testing.T) {
	t.Parallel()
	vm := twoVMs()[0]
	for _, test := range []struct {
		name, args  string
		ready       wire.Ready
		code        int
		out, err    string
		wantDeleted int
	}{
		{"rm", "vm run --rm -- seven", wire.Ready{State: "running"}, 7, "out\n", "waiting for the guest's services\nerr\n", 1},
		{"rm, cannot run", "vm run --rm -- missing", wire.Ready{State: "none"}, 127, "", "banger: it says no", 1},
		{"kept", "vm run -- seven", wire.Ready{State: "running"}, 7, "out\n", "banger vm delete -f sandbox\n", 0},
		{"degraded", "vm run --rm -- true", wire.Ready{State: "degraded", Failed: []string{"a.service", "b.service"}}, 0, "", "warning: failed in the guest: a.service, b.service", 1},
		{"detached", "vm run -d", wire.Ready{}, 0, "sandbox\n", "", 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			daemon := &fakeDaemon{vms: twoVMs(), create: creating(vm), agent: &fakeGuest{ready: test.ready}}
			got := run{args: strings.Fields(test.args), daemon: daemon}.do(t)
			if got.code != test.code || got.out != test.out || !strings.Contains(got.err, test.err) || !strings.HasPrefix(got.err, "spec: ") {
				t.Errorf("got %+v", got)
			}
			if n := deleted(daemon, vm.ID); n != test.wantDeleted {
				t.Errorf("deleted %d times, want %d", n, test.wantDeleted)
			}
		})
	}
}

// Ctrl-C while a VM is made: bangerd undoes it, and banger waits for that.
func TestInterruptedCreate(t *testing.T) {
	t.Parallel()
	begun, undone := make(chan struct{}), false
	daemon := &fakeDaemon{create: func(ctx context.Context, _ api.CreateVM, report progress.Func) (api.VM, error) {
		report.Step("working")
		close(begun)
		<-ctx.Done()
		undone = true
		return api.VM{}, &api.Error{Kind: api.KindCanceled, Message: "it was canceled"}
	}}
	send, result := interruptible(t, daemon, "vm run --rm -- true", time.Minute)
	<-begun
	send(syscall.SIGINT)
	if got := result(); got.code != 130 || !undone || !strings.HasSuffix(got.err, "banger: canceled\n") {
		t.Errorf("undone %v, got %+v", undone, got)
	}
}

// A VM that was finished just before bangerd heard of the Ctrl-C is not left.
func TestInterruptedTooLate(t *testing.T) {
	t.Parallel()
	vm := twoVMs()[0]
	begun := make(chan struct{})
	daemon := &fakeDaemon{vms: twoVMs(), create: func(ctx context.Context, _ api.CreateVM, _ progress.Func) (api.VM, error) {
		close(begun)
		<-ctx.Done()
		return vm, nil
	}}
	send, result := interruptible(t, daemon, "vm run -- true", time.Minute)
	<-begun
	send(syscall.SIGTERM)
	if got := result(); got.code != 143 {
		t.Errorf("got %+v", got)
	}
	if n := deleted(daemon, vm.Name); n != 1 {
		t.Errorf("deleted %d times", n)
	}
}

func TestLostDaemon(t *testing.T) {
	t.Parallel()
	daemon := &fakeDaemon{create: func(context.Context, api.CreateVM, progress.Func) (api.VM, error) {
		panic(http.ErrAbortHandler)
	}}
	got := run{args: strings.Fields("vm create"), daemon: daemon}.do(t)
	if got.code != 1 || !strings.Contains(got.err, "banger: bangerd went away in the middle of the request\nhint: ") {
		t.Errorf("got %+v", got)
	}
}
