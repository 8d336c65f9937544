package launch

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"banger/internal/confine"
	"banger/internal/vmm/launch/launcher"
)

// ownFilter says whether a VMM that runs has restricted its system calls
// itself, beyond what the layers of its start do.
func ownFilter(pid int, layers []confine.Layer) confine.Layer {
	layer := confine.Layer{Name: "own filter"}
	status, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		layer.Detail = fmt.Sprintf("cannot look at the process: %v", err)
		return layer
	}
	filters, ok := seccompFilters(string(status))
	for _, other := range layers {
		if other.Name == launcher.CallsLayer && other.On {
			filters--
		}
	}
	switch {
	case !ok:
		layer.Detail = "this kernel does not tell"
	case filters < 1:
		layer.Detail = "this build of the VMM has none"
	default:
		layer.On, layer.Detail = true, "the VMM makes no system calls but those it needs"
	}
	return layer
}

// seccompFilters reads the number of filters from proc_pid_status(5).
func seccompFilters(status string) (int, bool) {
	for line := range strings.Lines(status) {
		if text, found := strings.CutPrefix(line, "Seccomp_filters:"); found {
			n, err := strconv.Atoi(strings.TrimSpace(text))
			return n, err == nil
		}
	}
	return 0, false
}
