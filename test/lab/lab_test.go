package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"banger/internal/agent"
	"banger/internal/agent/wire"
	"banger/internal/kernel"
	"banger/test/base"
)

const (
	// limit bounds all of it.
	limit = 35 * time.Minute
	// startTimeout is for a host to boot and to settle.
	startTimeout = 8 * time.Minute
	// maxLosses is how many hosts may be lost: one now and then is the
	// emulation's doing, more are something else's.
	maxLosses = 2
)

// The host's uplink leads to a namespace that plays the internet: gateway is
// in the host's own network, world is beyond it. Both serve a page.
const (
	gateway = "203.0.113.1"
	world   = "198.51.100.1"
	uplink  = `ip netns add world
ip link add uplink type veth peer name uplink netns world
ip addr add 203.0.113.2/24 dev uplink
ip link set uplink up
ip -n world addr add ` + gateway + `/24 dev uplink
ip -n world addr add ` + world + `/32 dev lo
ip -n world link set lo up
ip -n world link set uplink up
ip route add default via ` + gateway + `
mkdir -p /srv/world
echo the world >/srv/world/index.html
ip netns exec world busybox httpd -p 80 -h /srv/world
`
)

// prefix is where banger is installed in the host.
const prefix = "/usr/local"

func TestLab(t *testing.T) {
	if os.Getenv("BANGER_LAB") == "" {
		t.Skip("SKIPPED: the lab takes minutes; set BANGER_LAB=1, or run: make lab")
	}
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	l := open(ctx, t)
	for _, scenario := range scenarios {
		t.Run(scenario.name, func(t *testing.T) {
			if err := l.play(ctx, t, scenario); err != nil {
				t.Error(err)
			}
		})
	}
}

// open returns a lab that ends with the test.
func open(ctx context.Context, t *testing.T) *lab {
	t.Helper()
	// Many an ordinary user's PATH is without the programs for administrators,
	// mke2fs among them.
	t.Setenv("PATH", os.Getenv("PATH")+":/usr/sbin:/sbin")
	caches, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	firecracker := findFirecracker(filepath.Join(caches, "banger-test"))
	if firecracker == "" {
		const message = "the lab needs firecracker: BANGER_TEST_FIRECRACKER names none, there is none in PATH, and `make lab-tools` fetches one"
		if os.Getenv("CI") != "" {
			t.Fatal(message)
		}
		fmt.Fprintf(os.Stdout, "\n==== NOT TESTED: %s\n", message)
		t.Skip(message)
	}
	l, err := newLab(ctx, t.TempDir(), firecracker)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if !l.options.keep {
			l.down()
		}
	})
	return l
}

// findFirecracker returns the binary to test: BANGER_TEST_FIRECRACKER, else
// what `make lab-tools` has fetched, else the one in PATH.
func findFirecracker(cache string) string {
	if path := os.Getenv("BANGER_TEST_FIRECRACKER"); path != "" {
		return path
	}
	fetched := filepath.Join(cache, "firecracker")
	if _, err := os.Stat(fetched); err == nil {
		return fetched
	}
	path, err := exec.LookPath("firecracker")
	if err != nil {
		return ""
	}
	return path
}

// lab has what hosts are made of, and one of them, which scenarios share.
type lab struct {
	options  options
	contents string // a tar archive for a host's /
	host     *host
	losses   int
}

// newLab prepares all that hosts need. dir is for files of its own.
func newLab(ctx context.Context, dir, firecracker string) (*lab, error) {
	root, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		return nil, err
	}
	contents := filepath.Join(dir, "contents")
	installed := filepath.Join(contents, prefix)
	fetched, err := base.Prepare(ctx, root, installed, os.Stderr)
	if err != nil {
		return nil, err
	}
	l := &lab{contents: filepath.Join(dir, "contents.tar"), options: options{memory: 5120, keep: os.Getenv("BANGER_LAB_HOST") != ""}}
	kernels := kernel.New(kernel.Options{Dir: filepath.Join(base.State(fetched), "kernels"), CacheDir: dir})
	if l.options.kernel, err = kernels.Get(base.Kernel); err != nil {
		return nil, err
	}
	if l.options.initramfs, err = kernels.Initramfs(ctx, l.options.kernel, base.Agent(installed)); err != nil {
		return nil, err
	}
	if l.options.root, err = rootDisk(ctx, filepath.Dir(fetched)); err != nil {
		return nil, err
	}
	if l.options.home, err = homeDisk(ctx, fetched); err != nil {
		return nil, err
	}
	tests := filepath.Join(contents, "opt", "lab")
	return l, errors.Join(
		os.MkdirAll(tests, 0o755), //nolint:gosec // for everybody in the host
		command(ctx, root, "go", "test", "-c", "-trimpath", "-ldflags=-s -w", "-o", filepath.Join(tests, "firecracker.test"), "./internal/vmm/firecracker"),
		command(ctx, root, "go", "test", "-c", "-trimpath", "-ldflags=-s -w", "-o", filepath.Join(tests, "cgroup.test"), "./internal/vmm/cgroup"),
		command(ctx, root, "install", "-m", "0644", l.options.initramfs, filepath.Join(tests, "initramfs")),
		command(ctx, root, "install", "-m", "0755", firecracker, filepath.Join(installed, "bin", "firecracker")),
		command(ctx, root, "tar", "-C", contents, "--owner=0", "--group=0", "--mode=go-w", "-cf", l.contents, "."),
	)
}

func command(ctx context.Context, dir, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", cmd, err, out)
	}
	return nil
}

// up returns the host, started if there is none.
func (l *lab) up(ctx context.Context, t *testing.T) (_ *host, err error) {
	t.Helper()
	if l.host != nil {
		return l.host, nil
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	began := time.Now()
	if l.options.keep {
		l.options.dir = os.Getenv("BANGER_LAB_HOST")
		if l.host, err = attach(ctx, l.options.dir); err == nil {
			return l.host, l.host.settle(ctx, t, l.contents, began)
		}
		// Short enough for sockets.
	} else if l.options.dir, err = os.MkdirTemp("/tmp", "banger-lab-"); err != nil {
		return nil, err
	}
	if l.host, err = start(ctx, l.options); err != nil {
		return nil, err
	}
	return l.host, l.host.settle(ctx, t, l.contents, began)
}

// settle sees a fresh host through its boot, and puts the contents into it.
func (h *host) settle(ctx context.Context, t *testing.T, contents string, began time.Time) error {
	t.Helper()
	if err := h.agent.Configure(ctx, wire.Configuration{
		Hostname: "lab", MachineID: "0123456789abcdef0123456789abcdef", Time: time.Now().UTC(),
	}); err != nil {
		return err
	}
	t.Logf("the host answers after %.0f s", time.Since(began).Seconds())
	// Until then systemd tidies up, /tmp for one.
	ready, err := h.agent.Ready(ctx)
	if err != nil {
		return err
	}
	t.Logf("the host is %s after %.0f s; failed units: %v", ready.State, time.Since(began).Seconds(), ready.Failed)
	file, err := os.Open(contents)
	if err != nil {
		return err
	}
	defer file.Close()
	var out bytes.Buffer
	const script = `set -e
tar -x --no-same-owner -C /
chown -R ` + user + `: /home/` + user + `
[ -e /run/netns/world ] || { ` + uplink + `}
until [ -w /dev/kvm ] && [ "$(stat -c %G /dev/kvm)" = kvm ]; do sleep 0.1; done
# Where this machine is busy the first look at KVM can take too long.
for i in 1 2 3 4 5 6 7 8 9 10; do
	runuser -l ` + user + ` -c 'banger doctor --json' >/tmp/doctor || true
	jq -r '.[] | select(.check == "KVM") | .detail' /tmp/doctor
	jq -e 'any(.[]; .check == "KVM" and .status == "pass")' /tmp/doctor >/tmp/doctor.kvm && break
done
ls -l /dev/kvm /dev/net/tun; uname -r; firecracker --version | head -n 1; banger version`
	code, err := h.run(ctx, []string{"sh", "-c", script}, agent.Streams{Stdin: file, Stdout: &out, Stderr: &out})
	if err != nil || code != 0 {
		return fmt.Errorf("cannot set it up: status %d, %w\n%s", code, err, out.Bytes())
	}
	t.Logf("the host is set up after %.0f s\n%s", time.Since(began).Seconds(), out.Bytes())
	return nil
}

// down ends the host, if there is one.
func (l *lab) down() {
	if l.host != nil {
		l.host.stop()
		l.host = nil
	}
	_ = os.RemoveAll(l.options.dir)
}

// play plays a scenario. With a host that was lost it does so again, in a
// fresh one, as nothing was learnt; and so it does, where BANGER_TEST_AGAIN asks
// for that, with a scenario that failed.
func (l *lab) play(ctx context.Context, t *testing.T, scenario scenario) error {
	t.Helper()
	var failed error
	for {
		err := l.once(ctx, t, scenario)
		if err == nil {
			if failed != nil {
				shout(t, "FLAKY, failed once and passed in a fresh host: %s", t.Name())
			}
			return nil
		}
		why := "it did not start"
		if l.host != nil {
			console, _ := os.ReadFile(l.host.console())
			t.Logf("the end of the host's console:\n%s", console[max(0, len(console)-8192):])
			why = l.host.lost(ctx)
		}
		if l.options.keep {
			return err
		}
		l.down()
		switch {
		case ctx.Err() != nil:
			return errors.Join(err, context.Cause(ctx))
		case why != "" && l.losses < maxLosses:
			l.losses++
			shout(t, "THE HOST WAS LOST, and is started afresh: %s: %v", why, err)
		case failed == nil && os.Getenv("BANGER_TEST_AGAIN") != "":
			failed = err
			shout(t, "FAILED, and run once more, in a fresh host: %s: %v", t.Name(), err)
		case failed != nil:
			return fmt.Errorf("failed twice: %w; before: %w", err, failed)
		default:
			return err
		}
	}
}

// shout says what must not be missed, whatever becomes of the test.
func shout(t *testing.T, format string, args ...any) {
	t.Helper()
	fmt.Fprintf(os.Stdout, "\n==== "+format+"\n", args...)
}

// once plays a scenario in the host that is there.
func (l *lab) once(ctx context.Context, t *testing.T, scenario scenario) error {
	t.Helper()
	h, err := l.up(ctx, t)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, scenario.timeout)
	defer cancel()
	s := &scene{t: t, ctx: ctx, host: h}
	done := make(chan struct{})
	go func() {
		defer close(done)
		scenario.play(s)
	}()
	<-done
	return s.err
}
