package qmp

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const greeting = `{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": "Debian"}, "capabilities": ["oob"]}}`

// serve plays QEMU: it greets, and answers each line with the next of answers.
// An empty answer hangs up. What it was sent comes back on the channel.
func serve(t *testing.T, answers ...string) (net.Conn, <-chan []string) {
	t.Helper()
	ours, theirs := net.Pipe()
	asked := make(chan []string, 1)
	go func() {
		defer theirs.Close()
		var lines []string
		defer func() { asked <- lines }()
		if _, err := io.WriteString(theirs, greeting+"\r\n"); err != nil {
			return
		}
		in := bufio.NewScanner(theirs)
		for _, answer := range answers {
			if !in.Scan() {
				return
			}
			lines = append(lines, in.Text())
			if answer == "" {
				return
			}
			if _, err := io.WriteString(theirs, answer+"\r\n"); err != nil {
				return
			}
		}
		for in.Scan() {
			lines = append(lines, in.Text())
		}
	}()
	t.Cleanup(func() { _ = ours.Close() })
	return ours, asked
}

func TestExecute(t *testing.T) {
	t.Parallel()
	conn, asked := serve(t,
		`{"return": {}, "id": 1}`,
		`{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "RESUME"}`+"\r\n"+
			`{"return": {"status": "running", "running": true}, "id": 2}`,
		`{"error": {"class": "CommandNotFound", "desc": "The command nope has not been found"}, "id": 3}`,
		`{"return": {}, "id": 4}`)
	var events []string
	client, err := New(t.Context(), conn, func(e Event) { events = append(events, e.Name) })
	if err != nil {
		t.Fatal(err)
	}
	var status struct{ Status string }
	if err := client.Execute(t.Context(), "query-status", nil, &status); err != nil {
		t.Fatal(err)
	}
	if status.Status != "running" {
		t.Errorf("status %q", status.Status)
	}
	err = client.Execute(t.Context(), "nope", map[string]int{"x": 1}, nil)
	if refusal, ok := errors.AsType[*Error](err); !ok || refusal.Class != "CommandNotFound" {
		t.Errorf("refused command: %v", err)
	}
	if err := client.Execute(t.Context(), "cont", nil, nil); err != nil {
		t.Errorf("after a refusal: %v", err)
	}
	_ = client.Close()
	if diff := cmp.Diff([]string{"RESUME"}, events); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
	want := []string{
		`{"execute":"qmp_capabilities","id":1}`,
		`{"execute":"query-status","id":2}`,
		`{"execute":"nope","arguments":{"x":1},"id":3}`,
		`{"execute":"cont","id":4}`,
	}
	if diff := cmp.Diff(want, <-asked); diff != "" {
		t.Errorf("sent (-want +got):\n%s", diff)
	}
}

func TestBadServer(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ name, answer, want string }{
		{"hangs up", "", "it hung up"},
		{"not JSON", "hello", "unexpected line"},
		{"not an object", "[1]", "unexpected line"},
		{"another's answer", `{"return": {}, "id": 77}`, "an answer to nothing that was asked"},
		{"neither result nor error", `{"id": 2}`, "neither result nor error"},
		{"error without id", `{"error": {"class": "GenericError", "desc": "JSON parse error"}}`, "JSON parse error"},
		{"endless line", strings.Repeat("x", maxLine+1), "token too long"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			conn, _ := serve(t, `{"return": {}, "id": 1}`, test.answer)
			client, err := New(t.Context(), conn, nil)
			if err != nil {
				t.Fatal(err)
			}
			err = client.Execute(t.Context(), "query-status", nil, nil)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Fatalf("error %v, want one with %q", err, test.want)
			}
			if err := client.Execute(t.Context(), "query-status", nil, nil); err == nil {
				t.Error("the connection is used again after an exchange that went wrong")
			}
		})
	}
}

func TestContext(t *testing.T) {
	t.Parallel()
	ours, theirs := net.Pipe()
	defer ours.Close()
	defer theirs.Close()
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		_, _ = io.WriteString(theirs, greeting+"\n")
		_, _ = bufio.NewReader(theirs).ReadString('\n')
		cancel() // in place of an answer
	}()
	if _, err := New(ctx, ours, nil); !errors.Is(err, context.Canceled) {
		t.Fatalf("error %v, want %v", err, context.Canceled)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(greeting))
	f.Add([]byte(`{"return": {}, "id": 1}`))
	f.Add([]byte(`{"event": "STOP", "data": {"a": [1, null]}}`))
	f.Add([]byte(`{"error": {"class": "x", "desc": 3}}`))
	f.Fuzz(func(t *testing.T, line []byte) {
		m, err := parse(line)
		if err == nil && m.Error != nil && m.Error.Error() != m.Error.Description {
			t.Error("an error without its text")
		}
	})
}
