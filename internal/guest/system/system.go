// Package system is the guest as its agent sees it: when the root is there,
// what it is configured as, when its init has settled, and how it ends.
package system

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"banger/internal/agent/wire"
	"banger/internal/guest/agent"
	"banger/internal/guest/boot"
	"banger/internal/guest/channel"
	"banger/internal/guest/configure"
	"banger/internal/guest/rootfs"
)

// System implements agent.Guest for the guest that this process runs in.
type System struct {
	log  *slog.Logger
	link io.ReadWriteCloser

	mounted  chan struct{} // closed when root and init are valid
	root     *rootfs.FS
	init     string
	systemd  bool
	settled  chan struct{} // closed when init has said that it is ready
	shutting sync.Once

	configuring sync.Mutex // held by one Configure
	mu          sync.Mutex
	configured  bool
}

// Run is the agent's process: it serves the host until the guest ends.
func Run() error {
	// Nothing but programs for the host is started from here; their limits
	// are those that systemd gives.
	_ = unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 1024, Max: 524288})
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	s := &System{
		log:     log,
		link:    os.NewFile(boot.LinkFD, "init"),
		mounted: make(chan struct{}),
		settled: make(chan struct{}),
	}
	if err := s.listenNotify(); err != nil {
		return err
	}
	if err := s.listenFinal(); err != nil {
		return err
	}
	failed := make(chan error, 2)
	go func() { failed <- s.followBoot() }()
	go func() {
		listener, err := channel.Listen(context.Background())
		if err == nil {
			err = agent.New(s, log).Serve(listener)
		}
		failed <- err
	}()
	for {
		if err := <-failed; err != nil {
			return err
		}
	}
}

// followBoot waits for the root.
func (s *System) followBoot() error {
	line, err := bufio.NewReader(s.link).ReadString('\n')
	if err != nil {
		return fmt.Errorf("cannot follow the boot: %w", err)
	}
	initPath, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), boot.Mounted)
	if !ok {
		return fmt.Errorf("cannot follow the boot: it says %q", line)
	}
	if s.root, err = rootfs.Open(boot.NewRoot); err != nil {
		return err
	}
	s.init, s.systemd = initPath, boot.IsSystemd(s.root, initPath)
	close(s.mounted)
	return nil
}

// Hello says who runs here.
func (s *System) Hello() wire.Hello {
	var hello wire.Hello
	// Both are files of the kernel that are always there.
	id, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	release, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	hello.BootID, hello.Kernel = strings.TrimSpace(string(id)), strings.TrimSpace(string(release))
	select {
	case <-s.mounted:
		hello.Init = s.init
	default:
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	hello.Configured = s.configured
	return hello
}

// Root is the guest's root, nil until it is configured.
func (s *System) Root() *rootfs.FS {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.configured {
		return nil
	}
	return s.root
}

// Configure applies a configuration; the first one lets the image's init start.
func (s *System) Configure(ctx context.Context, c wire.Configuration) error {
	if err := configure.Check(c); err != nil {
		return err
	}
	select {
	case <-s.mounted:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	s.configuring.Lock()
	defer s.configuring.Unlock()
	services, err := configure.Files(s.root, c)
	if err != nil {
		return err
	}
	if err := configure.Kernel(ctx, c); err != nil {
		return err
	}
	s.mu.Lock()
	first := !s.configured
	s.configured = true
	s.mu.Unlock()
	if !first {
		if services && s.systemd {
			// It reads its configuration again.
			return unix.Kill(1, unix.SIGHUP)
		}
		return nil
	}
	if _, err := io.WriteString(s.link, boot.Configured+"\n"); err != nil {
		return fmt.Errorf("cannot start the guest's init: %w", err)
	}
	return s.link.Close()
}

// listenNotify waits, in the background, for the init to say that it is ready.
func (s *System) listenNotify() error {
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: boot.NotifySocket, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("cannot listen for the guest's init: %w", err)
	}
	go func() {
		defer func() { _ = conn.Close() }()
		buf := make([]byte, 4096)
		for {
			n, err := conn.Read(buf)
			if err != nil && !errors.Is(err, unix.EINTR) {
				return
			}
			for line := range strings.Lines(string(buf[:n])) {
				if strings.TrimSpace(line) == "READY=1" {
					close(s.settled)
					return
				}
			}
		}
	}()
	return nil
}
