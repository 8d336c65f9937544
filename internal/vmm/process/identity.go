package process

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// Identity is one process for all time: pids are used again, and start times
// count from the host's boot.
type Identity struct {
	PID int
	// StartTime is field 22 of /proc/PID/stat, in clock ticks since boot.
	StartTime uint64
	BootID    string
}

// Check returns [ErrGone] if the process has ended, whoever has its pid now.
func (i Identity) Check() error {
	bootID, err := BootID()
	if err != nil {
		return err
	}
	if i.BootID != bootID || i.PID <= 0 {
		return ErrGone
	}
	now, err := readStat(i.PID)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
		return ErrGone
	}
	if err != nil {
		return err
	}
	if now.startTime != i.StartTime || now.ended() {
		return ErrGone
	}
	return nil
}

// BootID is different for each boot of the host.
func BootID() (string, error) {
	data, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("cannot read the host's boot id: %w", err)
	}
	return strings.TrimSpace(string(data)), nil
}

type stat struct {
	state     byte
	startTime uint64
	memory    uint64 // addresses in use, in bytes
}

// ended says that only the table entry is left.
func (s stat) ended() bool { return s.state == 'Z' || s.state == 'X' || s.state == 'x' }

func readStat(pid int) (stat, error) {
	found, err := readStatAt("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return stat{}, fmt.Errorf("cannot look at process %d: %w", pid, err)
	}
	return found, nil
}

func readStatAt(path string) (stat, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return stat{}, err
	}
	return parseStat(data)
}

// spent says that no thread of a process that was killed can run its program any
// more: the kernel has begun to end each of them, which takes memory away first.
// One that is gone since it was listed may have kept others off the list: the
// process has to be looked at again.
func spent(pid int) bool {
	threads := "/proc/" + strconv.Itoa(pid) + "/task"
	entries, err := os.ReadDir(threads)
	for _, entry := range entries {
		thread, err := readStatAt(filepath.Join(threads, entry.Name(), "stat"))
		if err != nil || thread.memory > 0 {
			return false
		}
	}
	return err == nil
}

// parseStat reads proc_pid_stat(5). The second field, the program's name in
// parentheses, may hold anything: blanks and parentheses too.
func parseStat(data []byte) (stat, error) {
	end := bytes.LastIndexByte(data, ')')
	if end < 0 {
		return stat{}, fmt.Errorf("unexpected content of its stat file: %.80q", data)
	}
	fields := bytes.Fields(data[end+1:])
	// Fields are numbered from 1, and fields[0] is the third.
	const state, startTime, memory = 0, 22 - 3, 23 - 3
	if len(fields) <= memory || len(fields[state]) != 1 {
		return stat{}, fmt.Errorf("unexpected content of its stat file: %.80q", data)
	}
	ticks, err := strconv.ParseUint(string(fields[startTime]), 10, 64)
	if err != nil {
		return stat{}, fmt.Errorf("unexpected start time in its stat file: %w", err)
	}
	size, err := strconv.ParseUint(string(fields[memory]), 10, 64)
	if err != nil {
		return stat{}, fmt.Errorf("unexpected size in its stat file: %w", err)
	}
	return stat{state: fields[state][0], startTime: ticks, memory: size}, nil
}
