package fcapi

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// serve answers every connection's first request with raw bytes, and returns
// a client and what was received.
func serve(t *testing.T, answer string) (*Client, <-chan string) {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	listener, err := new(net.ListenConfig).Listen(t.Context(), "unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	received := make(chan string, 1)
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer func() { _ = conn.Close() }()
		_ = conn.SetDeadline(time.Now().Add(time.Minute))
		request, err := readRequest(conn)
		if err != nil {
			t.Error(err)
			return
		}
		received <- request
		_, _ = io.WriteString(conn, answer)
	}()
	client := New(socket)
	t.Cleanup(client.Close)
	return client, received
}

// readRequest reads a request as Firecracker does: headers of lines that are
// not too long, then a body of the length given.
func readRequest(conn net.Conn) (string, error) {
	var head strings.Builder
	one := make([]byte, 1)
	for !strings.HasSuffix(head.String(), "\r\n\r\n") {
		if _, err := io.ReadFull(conn, one); err != nil {
			return "", err
		}
		head.Write(one)
	}
	length := 0
	for line := range strings.SplitSeq(head.String(), "\r\n") {
		if len(line) > 1024 {
			return "", errors.New("a header of more than 1024 bytes")
		}
		if name, value, ok := strings.Cut(strings.ToLower(line), ": "); ok && name == "content-length" {
			for _, digit := range value {
				length = length*10 + int(digit-'0')
			}
		}
	}
	body := make([]byte, length)
	if _, err := io.ReadFull(conn, body); err != nil {
		return "", err
	}
	return head.String() + string(body), nil
}

const noContent = "HTTP/1.1 204 \r\nServer: Firecracker API\r\nConnection: keep-alive\r\n\r\n"

func TestRequest(t *testing.T) {
	t.Parallel()
	client, received := serve(t, noContent)
	if err := client.PutDrive(t.Context(), Drive{ID: "disk0", Path: "/p", ReadOnly: true}); err != nil {
		t.Fatal(err)
	}
	got := <-received
	const body = `{"drive_id":"disk0","is_root_device":false,"is_read_only":true,"path_on_host":"/p"}`
	if !strings.HasPrefix(got, "PUT /drives/disk0 HTTP/1.1\r\n") || !strings.HasSuffix(got, "\r\n\r\n"+body) {
		t.Errorf("sent %q", got)
	}
	if strings.Contains(strings.ToLower(got), "transfer-encoding") || strings.Contains(got, "null") {
		t.Errorf("sent what firecracker does not read: %q", got)
	}
}

func TestAnswers(t *testing.T) {
	t.Parallel()
	with := func(status, body string) string {
		return "HTTP/1.1 " + status + " \r\nContent-Type: application/json\r\nContent-Length: " + length(body) + "\r\n\r\n" + body
	}
	for _, test := range []struct {
		name, answer string
		want         error
	}{
		{"a fault", with("400", `{"fault_message":"no such thing"}`), &Error{"PUT", "/actions", 400, "no such thing"}},
		{"a line break in JSON", with("400", "{ \"error\": \"bad\nrequest\" }"), &Error{"PUT", "/actions", 400, "{ \"error\": \"bad\nrequest\" }"}},
		{"too many connections", with("503", `{ "error": "too many open connections" }`), &Error{"PUT", "/actions", 503, "too many open connections"}},
		{"too much data", with("413", `{"fault_message":"too large"}`), &Error{"PUT", "/actions", 413, "too large"}},
		{"no body", with("400", ""), &Error{"PUT", "/actions", 400, "without a reason"}},
		{"not text", with("400", "\xff\xfe"), &Error{"PUT", "/actions", 400, "?"}},
		{"success with a body", with("200", "{}"), nil},
		{"success", noContent, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			client, _ := serve(t, test.answer)
			err := client.Start(t.Context())
			if test.want == nil {
				if err != nil {
					t.Error(err)
				}
				return
			}
			got, ok := errors.AsType[*Error](err)
			if !ok || !IsRefused(err) {
				t.Fatalf("error %v", err)
			}
			if diff := cmp.Diff(test.want, error(got)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func length(s string) string {
	digits := ""
	for n := len(s); n > 0 || digits == ""; n /= 10 {
		digits = string(rune('0'+n%10)) + digits
	}
	return digits
}

func TestGet(t *testing.T) {
	t.Parallel()
	const body = `{"id":"x","state":"Not started","vmm_version":"1.12.1","app_name":"Firecracker","more":1}`
	client, _ := serve(t, "HTTP/1.1 200 \r\nContent-Length: "+length(body)+"\r\n\r\n"+body)
	got, err := client.Instance(t.Context())
	if want := (Instance{ID: "x", State: "Not started", Version: "1.12.1"}); err != nil || got != want {
		t.Errorf("%+v, %v", got, err)
	}
	client, _ = serve(t, "HTTP/1.1 200 \r\nContent-Length: 1\r\n\r\n{")
	if _, err := client.Version(t.Context()); err == nil || IsRefused(err) {
		t.Errorf("half an answer: %v", err)
	}
}

func TestDeprecated(t *testing.T) {
	t.Parallel()
	client, _ := serve(t, "HTTP/1.1 204 \r\nDeprecation: true\r\n\r\n")
	said := ""
	client.Deprecated = func(method, path string) { said = method + " " + path }
	if err := client.PutEntropy(t.Context()); err != nil || said != "PUT /entropy" {
		t.Errorf("said %q, error %v", said, err)
	}
}

func TestNotReached(t *testing.T) {
	t.Parallel()
	client := New(filepath.Join(t.TempDir(), "none"))
	if err := client.Start(t.Context()); err == nil || IsRefused(err) {
		t.Errorf("nobody there: %v", err)
	}
	client, _ = serve(t, "") // closed at once
	if err := client.Start(t.Context()); err == nil || IsRefused(err) {
		t.Errorf("no answer: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := client.Start(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
}

// One connection is kept: firecracker takes ten, and closes none.
func TestOneConnection(t *testing.T) {
	t.Parallel()
	socket := filepath.Join(t.TempDir(), "s")
	listener, err := new(net.ListenConfig).Listen(t.Context(), "unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	conns := make(chan struct{}, 100)
	server := &http.Server{
		Handler:           http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusNoContent) }),
		ReadHeaderTimeout: time.Minute,
		ConnState: func(_ net.Conn, state http.ConnState) {
			if state == http.StateNew {
				conns <- struct{}{}
			}
		},
	}
	go func() { _ = server.Serve(listener) }()
	defer func() { _ = server.Close() }()
	client := New(socket)
	defer client.Close()
	for range 30 {
		if err := client.PutEntropy(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if n := len(conns); n != 1 {
		t.Errorf("%d connections", n)
	}
}

func FuzzFaultMessage(f *testing.F) {
	for _, seed := range []string{``, `{"fault_message":"x"}`, "{ \"error\": \"a\nb\" }", "\xff", `{"fault_message":1}`} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		if text := faultMessage(body); text == "" {
			t.Errorf("no reason for %q", body)
		}
	})
}
