package lab

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"banger/internal/agent"
)

// scenario is what a user does, and what must come of it.
type scenario struct {
	name    string
	timeout time.Duration
	play    func(*scene)
}

// scene runs the commands of a scenario in the host. A command that does not
// end as it must ends the scenario. Its methods are for the scenario's
// goroutine only.
type scene struct {
	t    *testing.T
	ctx  context.Context //nolint:containedctx // a scenario is one call
	host *host
	err  error
}

// result is what a command has come to.
type result struct {
	code           int
	stdout, stderr string
}

// fail ends the scenario.
func (s *scene) fail(format string, args ...any) {
	s.err = fmt.Errorf(format, args...)
	runtime.Goexit()
}

// run runs a program in the host.
func (s *scene) run(shown, stdin string, args ...string) result {
	s.t.Helper()
	began := time.Now()
	var stdout, stderr bytes.Buffer
	code, err := s.host.run(s.ctx, args, agent.Streams{Stdin: strings.NewReader(stdin), Stdout: &stdout, Stderr: &stderr})
	r := result{code, stdout.String(), stderr.String()}
	s.t.Logf("%s\n  [%d after %.1f s]%s%s", shown, code, time.Since(began).Seconds(), indent("stdout", r.stdout), indent("stderr", r.stderr))
	if err != nil {
		s.fail("%s: %w", shown, err)
	}
	return r
}

// indent shows what a command has said.
func indent(name, text string) string {
	const most = 4000
	text = strings.TrimRight(text, "\n")
	if text == "" {
		return ""
	}
	if len(text) > most {
		text = text[:most/2] + "\n...\n" + text[len(text)-most/2:]
	}
	return "\n  " + name + ": " + strings.ReplaceAll(text, "\n", "\n    ")
}

// user runs a shell script as the ordinary user, in a session of its own, with
// stdin.
func (s *scene) user(script, stdin string) result {
	s.t.Helper()
	return s.run("$ "+script, stdin, "runuser", "-l", user, "-c", script)
}

// must runs a shell script as the ordinary user, and returns its output.
func (s *scene) must(script string) string {
	s.t.Helper()
	return s.ended(0, script, s.user(script, "")).stdout
}

// status runs a shell script as the ordinary user that must end with a status.
func (s *scene) status(code int, script string) result {
	s.t.Helper()
	return s.ended(code, script, s.user(script, ""))
}

// root runs a shell script as root, and returns its output.
func (s *scene) root(script string) string {
	s.t.Helper()
	return s.ended(0, script, s.run("# "+script, "", "bash", "-c", script)).stdout
}

// quiet runs a shell script as root whose output is long.
func (s *scene) quiet(script string) string {
	s.t.Helper()
	var out bytes.Buffer
	code, err := s.host.run(s.ctx, []string{"bash", "-c", script}, agent.Streams{Stdin: strings.NewReader(""), Stdout: &out, Stderr: &out})
	if err != nil || code != 0 {
		s.fail("%s: status %d, %w\n%s", script, code, err, out.Bytes())
	}
	return out.String()
}

func (s *scene) ended(code int, script string, r result) result {
	s.t.Helper()
	if r.code != code {
		s.fail("%s: status %d, want %d\n%s%s", script, r.code, code, r.stdout, r.stderr)
	}
	return r
}

// eventually runs a shell script as the ordinary user until it ends with 0.
func (s *scene) eventually(script string) string {
	s.t.Helper()
	for {
		r := s.user(script, "")
		if r.code == 0 {
			return r.stdout
		}
		select {
		case <-s.ctx.Done():
			s.fail("%s: %w", script, context.Cause(s.ctx))
		case <-time.After(500 * time.Millisecond):
		}
	}
}

// equal compares what a command has said, without white space around it.
func (s *scene) equal(what, got, want string) {
	s.t.Helper()
	if strings.TrimSpace(got) != want {
		s.fail("%s: %q, want %q", what, got, want)
	}
}

// contains looks for a text in what a command has said.
func (s *scene) contains(what, got, want string) {
	s.t.Helper()
	if !strings.Contains(got, want) {
		s.fail("%s: %q, want %q in it", what, got, want)
	}
}

// decode runs a command as the ordinary user, and reads its JSON.
func decode[T any](s *scene, script string) T {
	s.t.Helper()
	var v T
	out := s.must(script)
	if err := json.Unmarshal([]byte(out), &v); err != nil {
		s.fail("%s: %w", script, err)
	}
	return v
}
