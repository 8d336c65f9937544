package usernet

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"banger/internal/network/policy"
	"banger/internal/network/resolver"
)

// ConnectTimeout is how long the process waits for its VMM.
const ConnectTimeout = 60 * time.Second

const (
	// Descriptors given by [Start].
	socketFD, readyFD = 3, 4

	readyMessage = "ready\n"
	// MemoryGoal is where garbage is collected harder; connections and what
	// they hold are bounded elsewhere.
	MemoryGoal = 256 << 20
)

// Main is the process that [Start] starts: the arguments are those after
// [Subcommand]. It returns when the VM is gone, or on SIGTERM.
func Main(args []string) error {
	ready := os.NewFile(readyFD, "ready")
	listener, cfg, err := prepare(args)
	if err != nil {
		// The caller's log has it too, if nobody reads this.
		_, _ = io.WriteString(ready, err.Error())
		ready.Close()
		return err
	}
	if _, err := io.WriteString(ready, readyMessage); err != nil {
		return fmt.Errorf("cannot report that the network is ready: %w", err)
	}
	ready.Close()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	conn, err := acceptOne(ctx, listener)
	if err != nil {
		return err
	}
	cfg.Log.Info("connected")
	err = Serve(ctx, conn, cfg)
	cfg.Log.Info("ended", "terminated", ctx.Err() != nil)
	return err
}

func prepare(args []string) (*net.UnixListener, Config, error) {
	log := slog.New(slog.NewTextHandler(os.Stderr, nil)).With("component", "network")
	cfg, err := parseArgs(args)
	if err != nil {
		return nil, Config{}, err
	}
	cfg.Log = log
	file := os.NewFile(socketFD, "network.sock")
	generic, err := net.FileListener(file)
	if err != nil {
		return nil, Config{}, fmt.Errorf("cannot listen on descriptor %d: %w", socketFD, err)
	}
	file.Close()
	listener, ok := generic.(*net.UnixListener)
	if !ok {
		return nil, Config{}, fmt.Errorf("cannot listen on descriptor %d: it is not a unix socket", socketFD)
	}
	listener.SetUnlinkOnClose(false)
	debug.SetMemoryLimit(MemoryGoal)
	servers := resolver.NewServers(resolver.ResolvConf, log)
	servers.Get()
	cfg.Resolvers = servers.Get
	if err := limits(&cfg); err != nil {
		return nil, Config{}, err
	}
	probeIPv6()
	if err := restrict(log, resolver.ResolvConf); err != nil {
		return nil, Config{}, err
	}
	return listener, cfg, nil
}

func parseArgs(args []string) (Config, error) {
	flags := flag.NewFlagSet(Subcommand, flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	guest := flags.String("guest", "", "the guest's address, with prefix length")
	gateway := flags.String("gateway", "", "the host's address for the guest")
	name := flags.String("name", "", "the VM's name")
	host := flags.Bool("host", false, "allow the host's services")
	lan := flags.Bool("lan", false, "allow private networks")
	allow := flags.String("allow", "", "networks to allow, separated by commas")
	open := flags.String("relay", "", "services to open, FROM=TO, separated by commas")
	if err := flags.Parse(args); err != nil {
		return Config{}, fmt.Errorf("cannot read the arguments of the network: %w", err)
	}
	cfg := Config{Name: *name, Policy: policy.Policy{Host: *host, LAN: *lan}}
	var err error
	if cfg.Guest, err = netip.ParsePrefix(*guest); err != nil {
		return Config{}, fmt.Errorf("cannot read the guest's address: %w", err)
	}
	if cfg.Gateway, err = netip.ParseAddr(*gateway); err != nil {
		return Config{}, fmt.Errorf("cannot read the gateway's address: %w", err)
	}
	for _, text := range strings.FieldsFunc(*allow, func(r rune) bool { return r == ',' }) {
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			return Config{}, fmt.Errorf("cannot read a network to allow: %w", err)
		}
		cfg.Policy.Allow = append(cfg.Policy.Allow, prefix)
	}
	if cfg.Relays, err = parseRelays(*open); err != nil {
		return Config{}, err
	}
	return cfg, nil
}

// limits fits the numbers of connections to the descriptors there can be; the
// Go runtime has raised the soft limit to the hard one.
func limits(cfg *Config) error {
	var files unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &files); err != nil {
		return fmt.Errorf("cannot get the limit of open files: %w", err)
	}
	const wantTCP, wantUDP, others = 4096, 1024, 64 + 2*resolver.MaxQuestions
	cfg.MaxTCP, cfg.MaxUDP = wantTCP, wantUDP
	if files.Cur < wantTCP+wantUDP+others {
		room := max(int(files.Cur)-others, 64)
		cfg.MaxTCP, cfg.MaxUDP = room*3/4, room/4
	}
	return nil
}

// probeIPv6 lets the standard library find out what the host speaks while
// this process may still bind a socket.
func probeIPv6() {
	if conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv6loopback}); err == nil {
		_ = conn.Close()
	}
}

func acceptOne(ctx context.Context, listener *net.UnixListener) (net.Conn, error) {
	defer func() { _ = listener.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = listener.Close() })
	defer stop()
	if err := listener.SetDeadline(time.Now().Add(ConnectTimeout)); err != nil {
		return nil, fmt.Errorf("cannot wait for the VMM: %w", err)
	}
	conn, err := listener.Accept()
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return nil, fmt.Errorf("no VMM has connected within %v", ConnectTimeout)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot wait for the VMM: %w", err)
	}
	return conn, nil
}
