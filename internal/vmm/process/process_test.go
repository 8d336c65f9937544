package process

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const patience = time.Minute

func start(t *testing.T, command Command) *Process {
	t.Helper()
	p, err := Start(command)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = syscall.Kill(p.Identity().PID, syscall.SIGKILL)
		_ = p.Close()
	})
	return p
}

func sleeper(t *testing.T) *Process {
	t.Helper()
	path, err := exec.LookPath("sleep")
	if err != nil {
		t.Fatal(err)
	}
	return start(t, Command{Path: path, Args: []string{"1000000"}})
}

func wait(t *testing.T, p *Process) {
	t.Helper()
	select {
	case <-p.Done():
	case <-time.After(patience):
		t.Fatal("the process has not ended")
	}
}

func TestStart(t *testing.T) {
	t.Parallel()
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	dir := t.TempDir()
	extra, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer extra.Close()
	p := start(t, Command{
		Path: "/bin/sh",
		Args: []string{"-c", `echo "$A ${HOME-unset}"; pwd; cat; ls -l /proc/$$/fd/3 | wc -l; echo err >&2; cut -d' ' -f6 /proc/$$/stat; echo $$`},
		Dir:  dir, Env: []string{"A=a", "PATH=" + os.Getenv("PATH")}, Log: log, Files: []*os.File{extra},
	})
	wait(t, p)
	data, err := os.ReadFile(log.Name())
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	if len(lines) != 6 {
		t.Fatalf("log %q", data)
	}
	if diff := cmp.Diff([]string{"a unset", dir, "1", "err"}, lines[:4]); diff != "" {
		t.Errorf("log (-want +got):\n%s", diff)
	}
	if lines[4] != lines[5] {
		t.Errorf("process %s is in session %s", lines[5], lines[4])
	}
	// It was reaped: not even a zombie is left.
	if _, err := readStat(p.Identity().PID); !errors.Is(err, os.ErrNotExist) && !errors.Is(err, syscall.ESRCH) {
		t.Errorf("its table entry: %v", err)
	}
}

func TestStartFails(t *testing.T) {
	t.Parallel()
	if _, err := Start(Command{Path: "/nonexistent"}); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("error %v", err)
	}
}

func TestKill(t *testing.T) {
	t.Parallel()
	p := sleeper(t)
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	if err := p.Kill(canceled); err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("kill that does not wait: %v", err)
	}
	for range 2 {
		if err := p.Kill(t.Context()); err != nil {
			t.Errorf("kill: %v", err)
		}
	}
	wait(t, p)
	if err := p.Close(); err != nil {
		t.Error(err)
	}
	// Whoever watches it may have let go of it by now.
	if err := p.Kill(t.Context()); err != nil {
		t.Errorf("kill of what has ended: %v", err)
	}
}

func TestCut(t *testing.T) {
	t.Parallel()
	p := sleeper(t)
	if spent(p.Identity().PID) {
		t.Error("a process that runs is taken for one that cannot")
	}
	for range 2 {
		if err := p.Cut(t.Context()); err != nil {
			t.Errorf("cut: %v", err)
		}
	}
	wait(t, p)
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	if err := p.Cut(canceled); err != nil {
		t.Errorf("cut of what has ended: %v", err)
	}
}

func TestOpen(t *testing.T) {
	t.Parallel()
	p := sleeper(t)
	id := p.Identity()
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	if err := p.Kill(t.Context()); err == nil {
		t.Error("a process that was let go can be killed")
	}
	opened, err := Open(id)
	if err != nil {
		t.Fatal(err)
	}
	defer opened.Close()
	other, err := Open(id)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	select {
	case <-opened.Done():
		t.Fatal("Done is closed")
	default:
	}
	if err := opened.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	wait(t, opened)
	wait(t, other) // which of them reaped it does not matter
}

func TestOpenGone(t *testing.T) {
	t.Parallel()
	p := sleeper(t)
	id := p.Identity()
	reused, rebooted, none, thread := id, id, id, id
	reused.StartTime++
	rebooted.BootID = "another"
	none.PID = -1
	thread.PID = 1 << 30
	for name, gone := range map[string]Identity{"reused": reused, "rebooted": rebooted, "none": none, "too large": thread} {
		if _, err := Open(gone); !errors.Is(err, ErrGone) {
			t.Errorf("%s: error %v", name, err)
		}
		if err := gone.Check(); !errors.Is(err, ErrGone) {
			t.Errorf("%s: check: error %v", name, err)
		}
	}
	if err := id.Check(); err != nil {
		t.Errorf("one that runs: %v", err)
	}
	if err := p.Kill(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(id); !errors.Is(err, ErrGone) {
		t.Errorf("ended: error %v", err)
	}
	if err := id.Check(); !errors.Is(err, ErrGone) {
		t.Errorf("ended: check: error %v", err)
	}
}

// TestOpenZombie has a parent that does not reap, as the first process of a
// container may be.
func TestOpenZombie(t *testing.T) {
	t.Parallel()
	cmd := exec.CommandContext(t.Context(), "/bin/sh", "-c", "exit 0")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	bootID, err := BootID()
	if err != nil {
		t.Fatal(err)
	}
	deadline := time.Now().Add(patience)
	for {
		stat, err := readStat(cmd.Process.Pid)
		if err != nil {
			t.Fatal(err)
		}
		if stat.ended() {
			if !spent(cmd.Process.Pid) {
				t.Error("it is taken for one that runs")
			}
			if _, err := Open(Identity{PID: cmd.Process.Pid, StartTime: stat.startTime, BootID: bootID}); !errors.Is(err, ErrGone) {
				t.Errorf("error %v", err)
			}
			return
		}
		if time.Now().After(deadline) {
			t.Fatal("the process has not ended")
		}
		time.Sleep(time.Millisecond)
	}
}

func TestParseStat(t *testing.T) {
	t.Parallel()
	const rest = " 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 20 21"
	const size = 20
	for _, test := range []struct {
		in   string
		want stat
		ok   bool
	}{
		{"12 (sleep) S" + rest, stat{'S', 4242, size}, true},
		{"12 (a) Z 1 (b c) R" + rest, stat{'R', 4242, size}, true},
		{"12 (sleep) SS" + rest, stat{}, false},
		{"12 (sleep) S 1 2 3", stat{}, false},
		{"12 sleep S" + rest, stat{}, false},
		{"12 (sleep) S" + strings.Replace(rest, "4242", "-1", 1), stat{}, false},
		{"12 (sleep) S" + strings.Replace(rest, " 20 ", " x ", 1), stat{}, false},
		{"", stat{}, false},
	} {
		got, err := parseStat([]byte(test.in))
		if got != test.want || (err == nil) != test.ok {
			t.Errorf("%q: %+v, %v", test.in, got, err)
		}
	}
}

func FuzzParseStat(f *testing.F) {
	f.Add([]byte("12 (sleep) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 20 21"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if s, err := parseStat(data); err != nil && s != (stat{}) {
			t.Errorf("%+v and the error %v", s, err)
		}
	})
}
