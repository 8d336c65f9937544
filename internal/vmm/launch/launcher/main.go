package launcher

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"banger/internal/confine"
	"banger/internal/vmm/netns"
)

// Main becomes the VMM, and returns only if it cannot, or need not.
func Main() error {
	// The thread that is confined is the one that goes on.
	runtime.LockOSThread()
	conn := os.NewFile(planFD, "plan")
	err := launch(conn)
	if err == nil {
		return nil
	}
	// The caller has it from here, if it still reads.
	_ = json.NewEncoder(conn).Encode(Report{Error: err.Error()})
	return err
}

// launch goes through the stages of a start. Namespaces come first: there they
// are, made with the process.
func launch(conn *os.File) error {
	text, err := io.ReadAll(io.LimitReader(conn, MaxPlan+1))
	if err != nil {
		return fmt.Errorf("cannot read the plan: %w", err)
	}
	p, err := parsePlan(text)
	if err != nil {
		return err
	}
	first := FirstFile + p.Files
	var layers []confine.Layer
	if p.Network {
		if err := netns.Connect(first); err != nil {
			return err
		}
		first++
		layers = append(layers, confine.Layer{Name: "network", On: true, Detail: "a namespace with the VM's device alone"})
	}
	if p.Path == "" {
		return json.NewEncoder(conn).Encode(Report{Layers: layers})
	}
	if err := closeOthers(first); err != nil {
		return err
	}
	restricted, err := restrict(p)
	if err != nil {
		return err
	}
	layers = append(layers, restricted...)
	if err := json.NewEncoder(conn).Encode(Report{Layers: layers}); err != nil {
		return fmt.Errorf("cannot report: %w", err)
	}
	if p.Try {
		return nil
	}
	err = unix.Exec(p.Path, append([]string{p.Path}, p.Args...), os.Environ())
	return fmt.Errorf("cannot run it: %w", err)
}

// parsePlan takes a plan and nothing else.
func parsePlan(text []byte) (Plan, error) {
	if len(text) > MaxPlan {
		return Plan{}, fmt.Errorf("cannot read the plan: it has more than %d bytes", MaxPlan)
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	var p Plan
	if err := decoder.Decode(&p); err != nil {
		return Plan{}, fmt.Errorf("cannot read the plan: %w", err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return Plan{}, errors.New("cannot read the plan: something follows it")
	}
	if p.Path == "" && p.Network {
		return p, nil
	}
	paths := []string{p.Path, p.Grant.RunDir}
	for _, list := range [][]string{p.Grant.ReadOnly, p.Grant.ReadWrite, p.Grant.Devices} {
		paths = append(paths, list...)
	}
	for _, path := range paths {
		if !filepath.IsAbs(path) {
			return Plan{}, fmt.Errorf("cannot follow the plan: %q is not an absolute path", path)
		}
	}
	const mostFiles = 64
	if p.Files < 0 || p.Files > mostFiles || p.Grant.FileBytes <= 0 {
		return Plan{}, fmt.Errorf("cannot follow the plan: %d descriptors, files of %d bytes", p.Files, p.Grant.FileBytes)
	}
	return p, nil
}

// closeOthers makes the exec close all descriptors from first on, and the
// launcher's own: what bangerd has inherited, and whoever started it had open,
// is no business of a VMM.
func closeOthers(first int) error {
	unix.CloseOnExec(planFD)
	err := unix.CloseRange(uint(first), math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC)
	if err == nil {
		return nil
	}
	// A kernel before 5.11.
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return fmt.Errorf("cannot close descriptors: %w", err)
	}
	for _, entry := range entries {
		if fd, err := strconv.Atoi(entry.Name()); err == nil && fd >= first {
			unix.CloseOnExec(fd)
		}
	}
	return nil
}

// MaxOpenFiles is enough for all connections of a VM.
const MaxOpenFiles = 4096

// restrict confines this process. An error is what every Linux can do.
func restrict(p Plan) ([]confine.Layer, error) {
	if err := limit(p.Grant); err != nil {
		return nil, err
	}
	started, err := inspect(p.Path)
	if err != nil {
		return nil, err
	}
	privileges, err := dropPrivileges(p.Grant)
	if err != nil {
		return nil, err
	}
	files, err := restrictFiles(p, started)
	if err != nil {
		return nil, err
	}
	calls, err := restrictSyscalls(p, started)
	if err != nil {
		return nil, err
	}
	return []confine.Layer{
		{Name: "session", On: true, Detail: "a session of its own, and no descriptors of others"},
		privileges,
		{Name: "limits", On: true, Detail: fmt.Sprintf("no core dumps, %d open files, files of %d MiB", MaxOpenFiles, p.Grant.FileBytes>>20)},
		files, calls,
	}, nil
}

// dropPrivileges leaves root what an ordinary user has, unless the VM's files
// are not root's own.
func dropPrivileges(grant Grant) (confine.Layer, error) {
	layer := confine.Layer{Name: "privileges"}
	if err := confine.Thread.NoNewPrivileges(); err != nil {
		return layer, err
	}
	if os.Geteuid() == 0 { // only root has any over files
		path, err := unreachable(grant)
		if err != nil {
			return layer, err
		}
		if path != "" {
			layer.Detail = fmt.Sprintf("root's capabilities are kept: without them there is no way to %q", path)
			return layer, nil
		}
	}
	layer.On, layer.Detail = true, "no capabilities, and none to be gained"
	return layer, confine.Thread.DropCapabilities()
}

// unreachable is a file that root does not get to without capabilities, if there
// is one.
func unreachable(grant Grant) (_ string, err error) {
	restore, err := confine.Thread.SuspendCapabilities()
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, restore()) }()
	for _, path := range slices.Concat(grant.ReadOnly, grant.ReadWrite, grant.Devices, []string{grant.RunDir}) {
		file, err := os.Open(path) // access(2) is for real users, who can do more
		_ = file.Close()
		if errors.Is(err, unix.EACCES) {
			return path, nil
		}
	}
	return "", nil
}

// limit sets resource limits. The number of processes is none of them: it
// counts all that the user has, wherever they were started.
func limit(grant Grant) error {
	if err := confine.NoCoreDumps(); err != nil {
		return err
	}
	// A write beyond the limit fails then, in place of ending the VMM.
	signal.Ignore(syscall.SIGXFSZ)
	for _, l := range []struct {
		name     string
		resource int
		most     uint64
	}{
		{"open files", unix.RLIMIT_NOFILE, MaxOpenFiles},
		{"the length of files", unix.RLIMIT_FSIZE, uint64(grant.FileBytes)},
	} {
		var now unix.Rlimit
		if err := unix.Getrlimit(l.resource, &now); err != nil {
			return fmt.Errorf("cannot get the limit of %s: %w", l.name, err)
		}
		most := min(l.most, now.Max)
		if err := unix.Setrlimit(l.resource, &unix.Rlimit{Cur: most, Max: most}); err != nil {
			return fmt.Errorf("cannot limit %s: %w", l.name, err)
		}
	}
	return nil
}
