package agent

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"banger/internal/agent/wire"
)

func TestListenTable(t *testing.T) {
	t.Parallel()
	const head = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
	line := func(local, state, queue, inode string) string {
		return "   0: " + local + " 00000000:0000 " + state + " " + queue + " 00:00000000 00000000     0        0 " + inode + " 1 0 100 0 0 10 0\n"
	}
	table := func(text string) string {
		proc := t.TempDir()
		if err := os.MkdirAll(filepath.Join(proc, "net"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(proc, "net", "tcp"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := listenTable(proc, nil)
		if err != nil {
			t.Fatal(err)
		}
		return string(got)
	}
	one := line("0100007F:1F90", "0A", "00000000:00000000", "77")
	many := strings.Repeat(one, 500) // more than one read
	same := table(head + one)
	if got := table(head + line("0100007F:1F90", "0A", "00000000:00000005", "77") + line("0100007F:1F90", "01", "0:0", "5")); got != same {
		t.Errorf("queues and connections count: %q", got)
	}
	if got := table(head + line("0100007F:1F90", "0A", "00000000:00000000", "78")); got == same {
		t.Error("another socket does not count")
	}
	if got := table(head + many); strings.Count(got, "1F90") != 500 {
		t.Errorf("%d of 500", strings.Count(got, "1F90"))
	}
	if got := table(head); got == same {
		t.Error("none is the same as one")
	}
}

func TestWatchPorts(t *testing.T) {
	t.Parallel()
	c, _ := newClient(t, "/")
	listener, err := new(net.ListenConfig).Listen(t.Context(), "tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	port := listener.Addr().(*net.TCPAddr).Port
	ctx, cancel := context.WithCancelCause(testContext(t))
	defer cancel(nil)
	gone := errors.New("seen coming and going")
	seen := false
	err = c.WatchPorts(ctx, func(ports []wire.Port) {
		there := slices.ContainsFunc(ports, func(p wire.Port) bool { return p.Port == port })
		switch {
		case there && !seen:
			seen = true
			listener.Close()
		case !there && seen:
			cancel(gone)
		}
	})
	if err == nil || !errors.Is(context.Cause(ctx), gone) {
		t.Errorf("%v, %v", err, context.Cause(ctx))
	}
}
