package qemu

import (
	"bufio"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// A process with the socket that only a re-execution of this test can have.
func TestReap(t *testing.T) {
	if dir := os.Getenv("BANGER_TEST_REAP"); dir != "" {
		listener, err := net.Listen("unix", filepath.Join(dir, qmpSocket)) //nolint:noctx // until it is killed
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close()
		_, _ = os.Stdout.WriteString("listening\n")
		select {}
	}
	t.Parallel()
	driver := New(Options{})
	dir, err := os.MkdirTemp("", "reap") //nolint:usetesting // short enough for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := driver.Reap(t.Context(), dir); err != nil {
		t.Errorf("nothing there: %v", err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	child := exec.CommandContext(t.Context(), self, "-test.run=^TestReap$")
	child.Env = append(os.Environ(), "BANGER_TEST_REAP="+dir)
	stdout, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	if line, err := bufio.NewReader(stdout).ReadString('\n'); line != "listening\n" {
		t.Fatalf("the child said %q, %v", line, err)
	}
	go func() { ended <- child.Wait() }()
	moved := dir + ".old"
	if err := os.Rename(dir, moved); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(moved) })
	if err := driver.Reap(t.Context(), moved); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-ended:
		if err == nil {
			t.Error("the child ended by itself")
		}
	case <-time.After(time.Minute):
		t.Error("the child lives on")
	}
	// Its socket stays, and nobody is behind it.
	if err := driver.Reap(t.Context(), moved); err != nil {
		t.Errorf("a stale socket: %v", err)
	}
}
