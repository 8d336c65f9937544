package usernet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"banger/internal/network/policy"
	"banger/internal/paths"
	"banger/internal/vmm/process"
)

// Subcommand is what the program is called with, before the arguments that
// go to [Main].
const Subcommand = "network"

const startTimeout = 20 * time.Second

// Options describe the process of one VM's network.
type Options struct {
	// Program runs [Main] when its first argument is [Subcommand].
	Program string
	// Socket is the unix socket the VMM connects to. A stale one is replaced.
	Socket string
	// Log gets, at its end, what the process has to say.
	Log string
	// Name is the VM's, for the guest's own questions about NAME.vm.
	Name    string
	Guest   netip.Prefix
	Gateway netip.Addr
	Policy  policy.Policy
	// Relays are open whatever the policy says.
	Relays []Relay
	// Start is [process.Start], or does what that does.
	Start func(process.Command) (*process.Process, error)
}

// Start runs the network of a VM in a process of its own, and returns when it
// is confined and its socket listens. The process ends by itself when the VMM
// closes its connection, or has not connected within [ConnectTimeout]: nobody
// has to look after it. Until the VMM runs the caller kills it if the VM's
// start fails. A ctx that ends while Start runs takes the start back; later it
// does nothing.
func Start(ctx context.Context, options Options) (_ *process.Process, err error) {
	if err := os.Remove(options.Socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("cannot start the network: %w", err)
	}
	listener, err := new(net.ListenConfig).Listen(ctx, "unix", options.Socket)
	if err != nil {
		return nil, fmt.Errorf("cannot start the network: %w", err)
	}
	unixListener := listener.(*net.UnixListener)
	// The process listens on; without files it could not make the socket.
	unixListener.SetUnlinkOnClose(false)
	defer listener.Close()
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(options.Socket))
		}
	}()
	socket, err := unixListener.File()
	if err != nil {
		return nil, fmt.Errorf("cannot start the network: %w", err)
	}
	defer socket.Close()
	log, err := os.OpenFile(options.Log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot start the network: %w", err)
	}
	defer log.Close()
	ready, theirs, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("cannot start the network: %w", err)
	}
	defer ready.Close()
	child, err := options.Start(process.Command{
		Path: options.Program, Args: options.args(), Dir: "/",
		Log: log, Files: []*os.File{socket, theirs},
	})
	theirs.Close()
	if err != nil {
		return nil, fmt.Errorf("cannot start the network: %w", paths.Missing(options.Program, err))
	}
	if err := awaitReady(ctx, ready); err != nil {
		killCtx, cancel := context.WithTimeout(context.WithoutCancel(ctx), startTimeout)
		defer cancel()
		return nil, errors.Join(err, child.Kill(killCtx), child.Close())
	}
	return child, nil
}

func awaitReady(ctx context.Context, ready *os.File) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { ready.Close() })
	defer stop()
	const most = 4096
	said, err := io.ReadAll(io.LimitReader(ready, most))
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("cannot start the network: %w", context.Cause(ctx))
	case err != nil:
		return fmt.Errorf("cannot start the network: %w", err)
	case string(said) == readyMessage:
		return nil
	case len(said) == 0:
		return errors.New("cannot start the network: its process ended at once")
	}
	return fmt.Errorf("cannot start the network: %s", said)
}

func (o Options) args() []string {
	args := []string{Subcommand, "-guest", o.Guest.String(), "-gateway", o.Gateway.String(), "-name", o.Name}
	if o.Policy.Host {
		args = append(args, "-host")
	}
	if o.Policy.LAN {
		args = append(args, "-lan")
	}
	if len(o.Policy.Allow) > 0 {
		var list []string
		for _, prefix := range o.Policy.Allow {
			list = append(list, prefix.String())
		}
		args = append(args, "-allow", strings.Join(list, ","))
	}
	if len(o.Relays) > 0 {
		args = append(args, "-relay", relays(o.Relays).String())
	}
	return args
}
