package agent_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"banger/internal/agent"
	"banger/internal/agent/wire"
)

// FuzzAnswers has a guest answer anything to what it is asked.
func FuzzAnswers(f *testing.F) {
	for status, body := range map[int]string{
		200: `{"version":1,"boot_id":"x","configured":true}`,
		204: ``,
		206: `[{"address":"127.0.0.1","port":22,"pid":1,"process":"sshd"}]` + "\n" + `[]`,
		404: `{"kind":"not_found","message":"no such file"}`,
		500: `[[[[`,
		101: "\x00\x00\x00\x04\x02abcd",
	} {
		f.Add(uint16(status), []byte(body))
	}
	f.Fuzz(func(t *testing.T, status uint16, body []byte) {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		client := agent.New(func(context.Context) (net.Conn, error) {
			ours, theirs := net.Pipe()
			go answer(theirs, int(status), body)
			return ours, nil
		})
		if hello, err := client.Hello(ctx); err == nil && hello.Version != wire.Version {
			t.Errorf("it says hello in version %d", hello.Version)
		}
		_, _ = client.Stats(ctx)
		_, _ = client.Ready(ctx)
		if ports, err := client.Ports(ctx); err == nil && len(ports) > len(body) {
			t.Errorf("%d bytes are %d ports", len(body), len(ports))
		}
		if err := client.WatchPorts(ctx, func([]wire.Port) {}); err == nil {
			t.Error("a watch has ended well")
		}
		if tar, err := client.Download(ctx, "/x"); err == nil {
			if n, err := io.Copy(io.Discard, tar); err == nil && n > int64(len(body)) {
				t.Errorf("%d bytes became %d", len(body), n)
			}
			_ = tar.Close()
		}
		if process, err := client.Exec(ctx, wire.ExecRequest{Args: []string{"true"}}, agent.Streams{Stdout: io.Discard, Stderr: io.Discard}); err == nil {
			_, _ = process.Wait()
		}
		if ctx.Err() != nil {
			t.Errorf("a guest that has ended is waited for: status %d, %q", status, body)
		}
	})
}

// answer reads one request and answers it, once.
func answer(conn net.Conn, status int, body []byte) {
	defer conn.Close()
	request, err := http.ReadRequest(bufio.NewReader(conn))
	if err != nil {
		return
	}
	fmt.Fprintf(conn, "HTTP/1.1 %d X\r\n", status)
	if protocol := request.Header.Get("Upgrade"); protocol != "" {
		fmt.Fprintf(conn, "Connection: Upgrade\r\nUpgrade: %s\r\n", strings.TrimSpace(protocol))
	}
	_, _ = conn.Write(append([]byte("\r\n"), body...))
}
