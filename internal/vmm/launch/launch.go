// Package launch starts VMMs confined to what one VM needs, by a program that
// takes powers away from its own process and then becomes the VMM: pid and start
// time are the VMM's. What that program does is in the package launcher.
package launch

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/confine"
	"banger/internal/paths"
	"banger/internal/undo"
	"banger/internal/vmm"
	"banger/internal/vmm/cgroup"
	"banger/internal/vmm/launch/launcher"
	"banger/internal/vmm/process"
)

// Command is a VMM to be started, with all that it may use.
type Command struct {
	// Path is the program, which may be one of the system with shared
	// libraries and data files, and Args its arguments without its name. Its
	// directory is /, its environment almost empty, its stdin as well.
	Path string
	Args []string
	// Log gets stdout and stderr.
	Log *os.File
	// Files are the descriptors from [launcher.FirstFile] on.
	Files []*os.File
	// Network, if it is not nil, is a connection to the process that is to
	// carry the guest's traffic. The VMM then has user and network namespaces
	// of its own, with nothing but the device [netns.TAP], whose other end
	// that process gets; the connection ends with the VMM.
	Network *os.File
	Grant   launcher.Grant
	// Name, with Limits, is the VM's ID, for a cgroup in Scope, if there is one.
	Name   string
	Limits cgroup.Limits
	Scope  *cgroup.Scope
	// try leaves the program out.
	try bool
}

// logBytes is how long a file may become where no disk is longer: the VMM's
// logs are written by itself.
const logBytes = 64 << 20

// GrantOf is what any VMM needs for a VM.
func GrantOf(spec vmm.Spec, devices ...string) launcher.Grant {
	grant := launcher.Grant{
		ReadOnly:  []string{spec.Kernel},
		ReadWrite: []string{spec.ConsoleLog, spec.VMMLog},
		Devices:   devices, RunDir: spec.RunDir,
		FileBytes: logBytes,
	}
	if spec.Initramfs != "" {
		grant.ReadOnly = append(grant.ReadOnly, spec.Initramfs)
	}
	if spec.Metrics != "" {
		grant.ReadWrite = append(grant.ReadWrite, spec.Metrics)
	}
	for _, disk := range spec.Disks {
		if disk.ReadOnly {
			grant.ReadOnly = append(grant.ReadOnly, disk.Path)
			continue
		}
		grant.ReadWrite = append(grant.ReadWrite, disk.Path)
		if info, err := os.Stat(disk.Path); err == nil {
			grant.FileBytes = max(grant.FileBytes, info.Size())
		}
	}
	if spec.NIC != nil && spec.NIC.Mode == vmm.NetworkTAP {
		grant.Devices = append(grant.Devices, "/dev/net/tun")
	}
	return grant
}

// LimitsOf is what a VMM takes for a VM at most: beside the guest's memory there
// are the VMM's own, translated code and the cache of disks' pages, of which the
// kernel takes back what is too much.
func LimitsOf(spec vmm.Spec) cgroup.Limits {
	const headroom, threads = 1 << 30, 256
	return cgroup.Limits{MemoryBytes: uint64(spec.MemoryMiB)<<20 + headroom, Threads: uint64(spec.VCPU) + threads}
}

const (
	// maxReport bounds what is read, in bytes.
	maxReport = 64 << 10
	// timeout bounds the launcher, which takes milliseconds.
	timeout = 30 * time.Second
)

// Start runs a VMM in a session of its own and returns when it runs, and how it
// is confined. program runs [launcher.Main] when its first argument is
// [launcher.Subcommand]. A layer that this host does not offer is left out, which
// is no error. After an error nothing is left running.
func Start(ctx context.Context, program string, command Command) (*process.Process, *Confinement, error) {
	child, c, err := start(ctx, program, command)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot start %q: %w", command.Path, err)
	}
	return child, c, nil
}

// Confinement is how a VMM is confined.
type Confinement struct {
	layers []confine.Layer
	cgroup confine.Layer
	pid    int
}

// Layers returns all layers: it is to be called when the VMM runs its guest.
func (c *Confinement) Layers() []confine.Layer {
	return append(c.layers, ownFilter(c.pid, c.layers), c.cgroup)
}

// CheckNetwork says why [Command.Network] cannot be had on this host, if so.
func CheckNetwork(ctx context.Context, program string) error {
	ours, theirs, err := socketPair()
	if err != nil {
		return err
	}
	defer func() { _ = errors.Join(ours.Close(), theirs.Close()) }()
	_, err = dryRun(ctx, program, Command{Network: theirs})
	return err
}

// Check returns the layers that VMMs have on this host, and those they have
// not.
func Check(ctx context.Context, program string) ([]confine.Layer, error) {
	layers, err := dryRun(ctx, program, Command{Path: program, Grant: launcher.Grant{RunDir: "/", FileBytes: logBytes}, try: true})
	if err != nil {
		return nil, fmt.Errorf("cannot find out how VMMs are confined: %w", err)
	}
	return append(layers, cgroup.Check()), nil
}

// dryRun runs a launcher that ends by itself.
func dryRun(ctx context.Context, program string, command Command) ([]confine.Layer, error) {
	child, c, err := start(ctx, program, command)
	if err != nil {
		return nil, err
	}
	defer func() { _ = child.Close() }()
	select { // so that it is reaped
	case <-child.Done():
	case <-ctx.Done():
	}
	return c.layers, context.Cause(ctx)
}

func start(ctx context.Context, program string, command Command) (_ *process.Process, _ *Confinement, err error) {
	var steps undo.Stack
	defer steps.OnError(&err)
	ours, theirs, err := socketPair()
	if err != nil {
		return nil, nil, err
	}
	defer func() { _ = ours.Close() }()
	files := append([]*os.File{theirs}, command.Files...)
	if command.Network != nil {
		files = append(files, command.Network)
	}
	child, held, err := command.Scope.Start(ctx, command.Name, command.Limits, process.Command{
		Path: program, Args: []string{launcher.Subcommand}, Dir: "/", Log: command.Log,
		Env:   []string{"PATH=/usr/bin:/bin", "LC_ALL=C"},
		Files: files, OwnNetwork: command.Network != nil,
	})
	theirs.Close()
	if err != nil {
		return nil, nil, paths.Missing(program, err)
	}
	steps.Add(func() error {
		killCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), vmm.KillTimeout)
		defer cancel()
		return errors.Join(child.Kill(killCtx), child.Close())
	})
	layers, err := instruct(ctx, ours, launcher.Plan{
		Path: command.Path, Args: command.Args, Files: len(command.Files), Network: command.Network != nil, Grant: command.Grant, Try: command.try,
	})
	return child, &Confinement{layers: layers, cgroup: held, pid: child.Identity().PID}, err
}

// instruct tells the launcher what to start, and returns when it has.
func instruct(ctx context.Context, conn *net.UnixConn, p launcher.Plan) ([]confine.Layer, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, errors.New("its launcher does not answer"))
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	layers, err := converse(conn, p)
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return layers, err
}

func converse(conn *net.UnixConn, p launcher.Plan) ([]confine.Layer, error) {
	text, err := json.Marshal(p)
	if err != nil {
		return nil, err
	}
	if len(text) > launcher.MaxPlan {
		return nil, fmt.Errorf("its arguments take %d bytes and %d are allowed", len(text), launcher.MaxPlan)
	}
	if _, err := conn.Write(text); err != nil {
		return nil, fmt.Errorf("its launcher takes no orders: %w", err)
	}
	if err := conn.CloseWrite(); err != nil {
		return nil, fmt.Errorf("its launcher takes no orders: %w", err)
	}
	var layers []confine.Layer
	answers := json.NewDecoder(io.LimitReader(conn, maxReport))
	for {
		var said launcher.Report
		err := answers.Decode(&said)
		switch {
		case errors.Is(err, io.EOF) && layers != nil:
			return layers, nil // the descriptor was closed by the exec
		case errors.Is(err, io.EOF):
			return nil, errors.New("its launcher ended at once")
		case err != nil:
			return nil, fmt.Errorf("cannot read its launcher's answer: %w", err)
		case said.Error != "":
			return nil, errors.New(said.Error)
		}
		layers = said.Layers
	}
}

// socketPair returns this process's end of a connection and the launcher's.
func socketPair() (*net.UnixConn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("cannot make a connection to the launcher: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "launcher"), os.NewFile(uintptr(fds[1]), "launcher")
	conn, err := net.FileConn(ours)
	ours.Close()
	if err != nil {
		theirs.Close()
		return nil, nil, fmt.Errorf("cannot make a connection to the launcher: %w", err)
	}
	return conn.(*net.UnixConn), theirs, nil
}
