package e2e

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// process is a running process that belongs to a script.
type process struct {
	pid     int
	command string
}

func (p process) String() string { return fmt.Sprintf("%d (%s)", p.pid, p.command) }

func (p process) kill() {
	// Gone already is as good.
	_ = syscall.Kill(p.pid, syscall.SIGKILL)
}

// processes finds a script's by its directories, which nothing else names: in
// their arguments or in their environment.
func processes(p *place) []process {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		panic(err)
	}
	var found []process
	for _, dir := range dirs {
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil || pid == os.Getpid() {
			continue
		}
		// A process may end while it is looked at.
		arguments, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		environment, _ := os.ReadFile(filepath.Join(dir, "environ"))
		if len(arguments) == 0 { // a zombie or a thread of the kernel
			continue
		}
		all := bytes.Join([][]byte{arguments, environment}, nil)
		if bytes.Contains(all, []byte(p.state)) || bytes.Contains(all, []byte(p.runtime)) {
			command := strings.Join(strings.Split(strings.TrimRight(string(arguments), "\x00"), "\x00"), " ")
			found = append(found, process{pid, command[:min(len(command), 200)]})
		}
	}
	return found
}
