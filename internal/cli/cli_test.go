package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"

	"banger/internal/agent/wire"
	"banger/internal/api"
	"banger/internal/client"
	"banger/internal/confine"
	"banger/internal/paths"
	"banger/internal/progress"
	"banger/internal/vmm"
)

var update = flag.Bool("update", false, "write the golden files")

// golden compares with a file in testdata.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v (run the test with -update)", err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s differs (-want +got; run the test with -update):\n%s", path, diff)
	}
}

// fakeDaemon answers what a test needs of bangerd, over real HTTP.
type fakeDaemon struct {
	mu       sync.Mutex
	vms      []api.VM
	requests []string
	// create is what POST /v1/vms does.
	create func(ctx context.Context, request api.CreateVM, report progress.Func) (api.VM, error)
	// agent serves the stream of GET /v1/vms/{ref}/agent.
	agent http.Handler
}

var epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func twoVMs() []api.VM {
	started := epoch.Add(time.Minute)
	return []api.VM{
		{
			ID: "0123456789ab", Name: "sandbox", State: api.StateRunning, Image: "debian-bookworm", Kernel: "debian-6.12", VCPU: 2, MemoryMiB: 2048,
			DiskBytes: 8 << 30, Address: "172.16.0.16", MAC: "06:00:ac:10:00:10", Created: epoch, Started: &started, DiskUsed: 7 << 20, Dir: "/state/vms/0123456789ab",
			VMM: &vmm.Handle{Driver: "qemu", PID: 4711, StartTime: 99, BootID: "b", RunDir: "/run/vm", Accelerator: "tcg", Version: "7.2.0", Confinement: []confine.Layer{{Name: "files", On: true, Detail: "this VM's alone"}, {Name: "cgroup", Detail: "there is no systemd"}}}, VMMReason: "firecracker is not installed",
		},
		{
			ID: "abcdef012345", Name: "old", State: api.StateStopped, Image: "debian-bookworm", Kernel: "debian-6.12", VCPU: 1, MemoryMiB: 512,
			DiskBytes: 8 << 30, Address: "172.16.0.17", MAC: "06:00:ac:10:00:11", Created: epoch, LastError: "it did not\ncome up", Dir: "/state/vms/abcdef012345",
		},
	}
}

func notFound(noun, name string) error {
	return &api.Error{Kind: api.KindNotFound, Message: fmt.Sprintf("there is no %s %q", noun, name), Hint: "see: banger vm list"}
}

func (d *fakeDaemon) find(ref string) (api.VM, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, vm := range d.vms {
		if vm.Name == ref || vm.ID == ref {
			return vm, nil
		}
	}
	return api.VM{}, notFound("VM", ref)
}

func (d *fakeDaemon) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	d.mu.Lock()
	d.requests = append(d.requests, strings.TrimSpace(r.Method+" "+r.URL.RequestURI()+" "+string(body)))
	d.mu.Unlock()
	mux := http.NewServeMux()
	answer := func(pattern string, do func(r *http.Request) (any, error)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			value, err := do(r)
			if err != nil {
				w.WriteHeader(http.StatusConflict)
				value = err
			}
			json.NewEncoder(w).Encode(value)
		})
	}
	events := func(pattern string, do func(r *http.Request, report progress.Func) (any, error)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			encoder := json.NewEncoder(w)
			value, err := do(r, func(event progress.Event) {
				encoder.Encode(api.Event{Progress: &event})
				http.NewResponseController(w).Flush()
			})
			if err != nil {
				answered, ok := errors.AsType[*api.Error](err)
				if !ok {
					answered = &api.Error{Kind: api.KindInternal, Message: err.Error()}
				}
				encoder.Encode(api.Event{Error: answered})
				return
			}
			result, _ := json.Marshal(value)
			encoder.Encode(api.Event{Result: result})
		})
	}
	answer("GET /v1/daemon", func(*http.Request) (any, error) {
		return api.Daemon{Version: "1.0", Build: "abc", PID: 1, Started: epoch, Socket: "/run/s", VMs: 2}, nil
	})
	answer("GET /v1/vms", func(*http.Request) (any, error) { return d.vms, nil })
	answer("GET /v1/vms/{ref}", func(r *http.Request) (any, error) { return d.find(r.PathValue("ref")) })
	answer("PATCH /v1/vms/{ref}", func(r *http.Request) (any, error) {
		vm, err := d.find(r.PathValue("ref"))
		var set api.SetVM
		if err := json.Unmarshal(body, &set); err != nil {
			return nil, err
		}
		vm.VMMChoice = set.VMM
		return vm, err
	})
	answer("DELETE /v1/vms/{ref}", func(r *http.Request) (any, error) { return d.find(r.PathValue("ref")) })
	answer("POST /v1/vms/{ref}/kill", func(r *http.Request) (any, error) { return d.find(r.PathValue("ref")) })
	events("POST /v1/vms", func(r *http.Request, report progress.Func) (any, error) {
		var request api.CreateVM
		if err := json.Unmarshal(body, &request); err != nil {
			return nil, err
		}
		return d.create(r.Context(), request, report)
	})
	for _, verb := range []string{"start", "stop"} {
		events("POST /v1/vms/{ref}/"+verb, func(r *http.Request, report progress.Func) (any, error) {
			report.Step(verb + " it")
			return d.find(r.PathValue("ref"))
		})
	}
	answer("GET /v1/vms/{ref}/ports", func(*http.Request) (any, error) {
		return []api.Port{
			{Port: wire.Port{Address: "0.0.0.0", Port: 22, PID: 300, Process: "sshd"}, Host: "127.1.1.2:10022", Elsewhere: "you may not have port 22"},
			{Port: wire.Port{Address: "::", Port: 8080, Process: "evil\x1b[31m\nname"}, Host: "127.1.1.2:8080", URL: "http://sandbox.vm:8080"},
			{Port: wire.Port{Address: "127.0.0.1", Port: 9000}, Error: "cannot listen"},
		}, nil
	})
	answer("GET /v1/vms/{ref}/stats", func(r *http.Request) (any, error) {
		vm, err := d.find(r.PathValue("ref"))
		return api.Stats{
			VM: vm.Name, HostMemory: 300 << 20, HostCPUSecond: 12.5,
			Guest: wire.Stats{
				Uptime: 3725, CPUSeconds: 11, CPUs: 2, Load: [3]float64{0.5, 0.2, 0.1}, MemoryTotal: 2 << 30, MemoryUsed: 200 << 20, Processes: 31,
				Disks: []wire.Disk{{Mount: "/", Total: 60 << 30, Used: 1 << 30}, {Mount: "/root", Total: 8 << 30, Used: 30 << 20}},
			},
		}, err
	})
	mux.HandleFunc("GET /v1/vms/{ref}/logs", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "log of %s, %s\n", r.PathValue("ref"), r.FormValue("source"))
	})
	image := api.Image{
		Name: "debian-bookworm", Present: true, Digest: "sha256:0123", Size: 700 << 20, Created: epoch, Kernel: "debian-6.12", Description: "Debian 12",
		Source: map[string]string{"suite": "bookworm", "docker.io": "20.10"}, Notes: []string{"mise could not be had"}, UsedBy: []string{"old", "sandbox"},
		Usage: &api.ImageUsage{Private: 500 << 20, Shared: 200 << 20, VMs: 30 << 20}, Received: &api.Received{From: "https://example.org/team.tar.zst"},
	}
	answer("GET /v1/images", func(*http.Request) (any, error) { return []api.Image{image, {Name: "other"}}, nil })
	answer("GET /v1/images/{name}", func(r *http.Request) (any, error) {
		if r.PathValue("name") != image.Name {
			return nil, notFound("image", r.PathValue("name"))
		}
		return image, nil
	})
	answer("DELETE /v1/images/{name}", func(r *http.Request) (any, error) {
		return nil, &api.Error{Kind: api.KindInUse, Message: fmt.Sprintf("cannot delete the image %q: VMs use it: old", r.PathValue("name"))}
	})
	events("POST /v1/images/pull", func(_ *http.Request, report progress.Func) (any, error) {
		report.Step("fetching packages")
		report(progress.Event{Text: "fetching packages", Done: 5, Total: 10, Bytes: true})
		report.Warn("mise could not be had")
		return image, nil
	})
	kernel := api.Kernel{
		Name: "debian-6.12", Present: true, Digest: "sha256:4567", Version: "6.12.9-cloud-amd64", Size: 60 << 20, Created: epoch, Description: "Debian's",
		Source: map[string]string{"suite": "trixie"}, UsedBy: []string{"sandbox"}, Features: []api.Feature{
			{Name: "disks", Required: true, State: api.FeaturePresent},
			{Name: "FUSE", State: api.FeaturePresent},
			{Name: "VMGenID", State: api.FeatureMissing, Options: []string{"CONFIG_VMGENID"}},
			{Name: "eBPF", State: api.FeatureUnknown, Options: []string{"CONFIG_BPF_SYSCALL", "CONFIG_BPF_JIT"}},
		},
	}
	answer("GET /v1/kernels", func(r *http.Request) (any, error) {
		kernels := []api.Kernel{kernel}
		if r.FormValue("available") == "1" {
			kernels = append(kernels, api.Kernel{Name: "debian-7"})
		}
		return kernels, nil
	})
	events("POST /v1/images/available", func(_ *http.Request, report progress.Func) (any, error) {
		report.Warn("cannot use the catalog \"https://example.org/c.json\": it is gone")
		return []api.Image{image, {Name: "team", Kernel: "debian-6.12", Origin: "https://example.org/d.json"}}, nil
	})
	events("POST /v1/kernels/available", func(*http.Request, progress.Func) (any, error) {
		return []api.Kernel{kernel, {Name: "debian-7", Description: "not here", Origin: "built in"}}, nil
	})
	answer("GET /v1/kernels/{name}", func(*http.Request) (any, error) { return kernel, nil })
	answer("DELETE /v1/kernels/{name}", func(*http.Request) (any, error) { return nil, nil })
	events("POST /v1/kernels/pull", func(*http.Request, progress.Func) (any, error) { return kernel, nil })
	hijack := func(pattern, protocol string, serve func(conn net.Conn)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, _ *http.Request) {
			conn, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				return
			}
			fmt.Fprintf(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: %s\r\n\r\n", protocol)
			serve(conn)
		})
	}
	hijack("GET /v1/vms/{ref}/hold", "banger-hold", func(conn net.Conn) {
		io.Copy(io.Discard, conn)
		conn.Close()
	})
	hijack("GET /v1/vms/{ref}/agent", "banger-agent", func(conn net.Conn) {
		listener := &oneConn{conn: conn, closed: make(chan struct{})}
		server := &http.Server{Handler: d.agent, ConnState: func(_ net.Conn, state http.ConnState) {
			if state == http.StateHijacked || state == http.StateClosed {
				listener.Close()
			}
		}}
		server.Serve(listener)
	})
	r.Body = io.NopCloser(bytes.NewReader(body))
	mux.ServeHTTP(w, r)
}

// oneConn is a listener for one connection.
type oneConn struct {
	conn   net.Conn
	once   sync.Once
	end    sync.Once
	closed chan struct{}
}

func (l *oneConn) Accept() (net.Conn, error) {
	var conn net.Conn
	l.once.Do(func() { conn = l.conn })
	if conn != nil {
		return conn, nil
	}
	<-l.closed
	return nil, net.ErrClosed
}

func (l *oneConn) Close() error {
	l.end.Do(func() { close(l.closed) })
	return nil
}
func (l *oneConn) Addr() net.Addr { return l.conn.LocalAddr() }

// run is one run of banger.
type run struct {
	args   []string
	stdin  io.Reader
	env    map[string]string
	daemon *fakeDaemon // nil: it is down
	// ctx and signals may be set together, to send signals.
	ctx     context.Context
	signals *signals
	// answerTimeout replaces the constant.
	answerTimeout time.Duration
}

type outcome struct {
	code        int
	out, err    string
	startedWith int // how often bangerd was asked for
}

func (r run) do(t *testing.T) outcome {
	t.Helper()
	home := t.TempDir()
	env := map[string]string{"HOME": home, "XDG_RUNTIME_DIR": filepath.Join(home, "run")}
	maps.Copy(env, r.env)
	var out, errs bytes.Buffer
	if r.stdin == nil {
		r.stdin = strings.NewReader("")
	}
	if r.ctx == nil {
		r.ctx = t.Context()
	}
	ctx, sig := r.ctx, r.signals
	if sig == nil {
		ctx, sig = watchSignals(ctx)
		defer sig.stop()
	}
	a := newApp(Env{Args: r.args, In: r.stdin, Out: &out, Err: &errs, Getenv: func(key string) string { return env[key] }}, sig)
	if r.answerTimeout > 0 {
		a.answerTimeout = r.answerTimeout
	}
	started := 0
	a.ensure = func(context.Context, paths.Dirs, *client.Client) error {
		started++
		if r.daemon == nil {
			return errors.New("cannot start bangerd: it is down in this test")
		}
		return nil
	}
	a.dial = func(context.Context) (net.Conn, error) { return nil, client.ErrNotRunning }
	if r.daemon != nil {
		server := httptest.NewServer(r.daemon)
		t.Cleanup(server.Close)
		a.dial = func(ctx context.Context) (net.Conn, error) {
			var dialer net.Dialer
			return dialer.DialContext(ctx, "tcp", server.Listener.Addr().String())
		}
	}
	code := a.main(ctx)
	return outcome{code: code, out: out.String(), err: errs.String(), startedWith: started}
}

// walk visits every command but those that are hidden.
func walk(cmd *cobra.Command, visit func(*cobra.Command)) {
	visit(cmd)
	for _, child := range cmd.Commands() {
		if !child.Hidden {
			walk(child, visit)
		}
	}
}

func TestHelp(t *testing.T) {
	t.Parallel()
	_, sig := watchSignals(t.Context())
	t.Cleanup(sig.stop)
	var names [][]string
	walk(newRoot(newApp(Env{}, sig)), func(cmd *cobra.Command) {
		names = append(names, strings.Fields(cmd.CommandPath())[1:])
		if cmd.Short == "" || cmd.Long == "" || (cmd.Example == "" && !cmd.HasSubCommands()) {
			t.Errorf("%q lacks a short or long text or examples", cmd.CommandPath())
		}
		for line := range strings.Lines(cmd.Long) {
			if len(line) > 90 {
				t.Errorf("%q: this line is too long for a terminal: %s", cmd.CommandPath(), line)
			}
		}
	})
	for _, name := range names {
		t.Run(strings.Join(name, "_"), func(t *testing.T) {
			t.Parallel()
			got := run{args: append(slices.Clone(name), "--help")}.do(t)
			if got.code != 0 || got.err != "" || got.startedWith != 0 {
				t.Errorf("status %d, %d starts, stderr %q", got.code, got.startedWith, got.err)
			}
			golden(t, "help/"+strings.Join(append([]string{"banger"}, name...), "_")+".txt", got.out)
		})
	}
}

func TestOutput(t *testing.T) {
	t.Parallel()
	for _, args := range []string{
		"vm list --json", "ps --json", "vm list -q", "vm show sandbox --json", "vm ports sandbox --json", "vm ports sandbox", "vm stats --json", "vm stats sandbox",
		"image list --json", "image list --available --json", "image show debian-bookworm --json", "image pull debian-bookworm", "image pull debian-bookworm --json",
		"kernel list --json", "kernel list --available --json", "kernel show debian-6.12 --json", "kernel pull debian-6.12",
		"vm logs sandbox", "vm logs --source vmm sandbox", "vm start old", "vm stop sandbox", "vm kill sandbox", "vm delete -f old", "vm set sandbox --vcpu 4", "vm set sandbox --vmm firecracker",
		"vm prune --force", "vm prune --force --json",
	} {
		t.Run(strings.ReplaceAll(args, " ", "_"), func(t *testing.T) {
			t.Parallel()
			got := run{args: strings.Fields(args), daemon: &fakeDaemon{vms: twoVMs()}}.do(t)
			if got.code != 0 {
				t.Errorf("status %d", got.code)
			}
			golden(t, "output/"+strings.ReplaceAll(args, " ", "_")+".txt", "stdout:\n"+got.out+"stderr:\n"+got.err)
		})
	}
}

func TestKernelShowSaysWhatItLacks(t *testing.T) {
	t.Parallel()
	got := run{args: []string{"kernel", "show", "debian-6.12"}, daemon: &fakeDaemon{}}.do(t)
	for _, want := range []string{
		`(?m)^features +disks, FUSE$`, `(?m)^lacks +VMGenID \(CONFIG_VMGENID\)$`, `(?m)^not known +eBPF \(CONFIG_BPF_SYSCALL, CONFIG_BPF_JIT\)$`,
	} {
		if got.code != 0 || !regexp.MustCompile(want).MatchString(got.out) {
			t.Errorf("%d, %q does not match %q", got.code, got.out, want)
		}
	}
}

func TestShowSaysWhyOnThisVMM(t *testing.T) {
	t.Parallel()
	vms := twoVMs()
	vms[1].VMMChoice = "firecracker"
	for name, want := range map[string]string{
		"sandbox": "qemu 7.2.0 (tcg), pid 4711: firecracker is not installed",
		"old":     "firecracker, at the next start",
	} {
		got := run{args: []string{"vm", "show", name}, daemon: &fakeDaemon{vms: vms}}.do(t)
		if got.code != 0 || !strings.Contains(got.out, want) {
			t.Errorf("status %d, %q is not in:\n%s", got.code, want, got.out)
		}
	}
}

func TestShowSaysHowConfined(t *testing.T) {
	t.Parallel()
	got := run{args: []string{"vm", "show", "sandbox"}, daemon: &fakeDaemon{vms: twoVMs()}}.do(t)
	for _, want := range []string{"confined      files\n", "not confined  cgroup: there is no systemd\n"} {
		if !strings.Contains(got.out, want) {
			t.Errorf("%q is not in:\n%s", want, got.out)
		}
	}
}

func TestEmptyListsAreLists(t *testing.T) {
	t.Parallel()
	got := run{args: []string{"vm", "list", "--json"}, daemon: &fakeDaemon{}}.do(t)
	if got.out != "[]\n" {
		t.Errorf("got %q", got.out)
	}
}

// The table has the right columns; ages in it depend on the time.
func TestTable(t *testing.T) {
	t.Parallel()
	got := run{args: []string{"ps"}, daemon: &fakeDaemon{vms: twoVMs()}}.do(t)
	lines := strings.Split(got.out, "\n")
	if len(lines) != 4 || !strings.HasPrefix(lines[0], "NAME     ID            STATE") || !strings.HasPrefix(lines[2], "old      abcdef012345  stopped") {
		t.Errorf("got:\n%s", got.out)
	}
	if strings.Contains(got.out, "\x1b") {
		t.Error("there is colour, and no terminal")
	}
}

func TestUsage(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ args, message string }{
		{"bogus", `there is no command "bogus" in "banger"`},
		{"vm bogus", `there is no command "bogus" in "banger vm"`},
		{"help vm bogus", `there is no command "vm bogus"`},
		{"vm list --bogus", "unknown flag: --bogus"},
		{"vm list extra", `this takes no arguments, and there is "extra"`},
		{"vm show", "the VM's name is missing"},
		{"vm show a b", `there is an argument too many: "b"`},
		{"vm start", "the VM's name is missing"},
		{"vm set a", "there is nothing to change"},
		{"vm set a --vcpu 0", "bad --vcpu"},
		{"vm run a b", "more than one argument before --"},
		{"vm run a b -- x", "more than one argument before --"},
		{"vm run --", "the command after -- is missing"},
		{"vm run --rm -d", "give one of them"},
		{"vm run -d -- ls", "--detach runs no command"},
		{"vm run --memory 1Q", `bad --memory: "1Q" is not a size`},
		{"vm run --memory 1K", "bad --memory"},
		{"vm run --memory -1", "bad --memory"},
		{"vm run --memory 99999999999999999999", "bad --memory"},
		{"vm run --disk-size 0", "bad --disk-size"},
		{"vm run --vcpu many", `bad --vcpu: "many" is not a number`},
		{"vm run --vcpu 1000", "bad --vcpu"},
		{"vm run --branch x", "--branch is about a workspace, and no PATH is given"},
		{"vm create --name=", "--name is empty"},
		{"vm exec", "the VM's name is missing"},
		{"vm exec sandbox", "the command to run is missing"},
		{"vm exec sandbox --", "the command to run is missing"},
		{"vm exec sandbox -t -- ls", `"-t" stands between`},
		{"vm exec -e X sandbox -- ls", "is not of the form KEY=value"},
		{"vm cp a b", "is in a VM"},
		{"vm cp one:a two:b", "from one VM to another"},
		{"vm cp a", "DESTINATION is missing"},
		{"vm logs --source bogus sandbox", "is not one of console, vmm, network, metrics"},
		{"vm stop --timeout 1 sandbox", "bad --timeout: missing unit"},
		{"vm stop --timeout 1ms sandbox", "too short"},
		{"vm prune", "no terminal to ask on"},
		{"vm prune --json", "no terminal to ask on"},
		{"image build -t app:latest .", `cannot name an image "app:latest": not a valid name`},
		{"image build -t a/b .", `cannot name an image "a/b"`},
		{"image register app:1 --rootfs .", `cannot name an image "app:1"`},
		{"image import --name app:1 x.tar", `cannot name an image "app:1"`},
		{"image import --name= x.tar", `cannot name an image ""`},
		{"vm commit sandbox app:1", `cannot name an image "app:1"`},
		{"completion", "the shell's name is missing"},
		{"completion tcsh", `"tcsh" is not a shell`},
		{"ssh-config --install --uninstall", "exclude each other"},
		{"daemon logs -n -1", "is negative"},
	} {
		t.Run(test.args, func(t *testing.T) {
			t.Parallel()
			got := run{args: strings.Fields(test.args)}.do(t)
			if got.code != 2 || got.startedWith != 0 || got.out != "" {
				t.Errorf("status %d, %d starts, stdout %q", got.code, got.startedWith, got.out)
			}
			first, rest, _ := strings.Cut(got.err, "\n")
			if !strings.HasPrefix(first, "banger: ") || !strings.Contains(first, test.message) {
				t.Errorf("got %q, want %q in it", first, test.message)
			}
			if !strings.HasPrefix(rest, "hint: ") || strings.Count(rest, "\n") != 1 {
				t.Errorf("want one line with a hint, got %q", rest)
			}
		})
	}
}

func TestErrors(t *testing.T) {
	t.Parallel()
	t.Run("answered", func(t *testing.T) {
		t.Parallel()
		got := run{args: []string{"vm", "show", "nobody"}, daemon: &fakeDaemon{vms: twoVMs()}}.do(t)
		if want := (outcome{code: 1, err: "banger: there is no VM \"nobody\"\nhint: see: banger vm list\n", startedWith: 1}); got != want {
			t.Errorf("got %+v, want %+v", got, want)
		}
	})
	t.Run("usage answered", func(t *testing.T) {
		t.Parallel()
		daemon := &fakeDaemon{create: func(context.Context, api.CreateVM, progress.Func) (api.VM, error) {
			return api.VM{}, &api.Error{Kind: api.KindUsage, Message: "cannot use \"A\" as the name of a VM"}
		}}
		got := run{args: []string{"vm", "create", "--name", "A"}, daemon: daemon}.do(t)
		if got.code != 2 {
			t.Errorf("got %+v", got)
		}
	})
	t.Run("bangerd is down", func(t *testing.T) {
		t.Parallel()
		got := run{args: []string{"vm", "list"}}.do(t)
		if got.code != 1 || got.err != "banger: cannot start bangerd: it is down in this test\n" {
			t.Errorf("got %+v", got)
		}
	})
	t.Run("no home", func(t *testing.T) {
		t.Parallel()
		got := run{args: []string{"vm", "list"}, env: map[string]string{"HOME": "here"}}.do(t)
		if got.code != 1 || !strings.HasPrefix(got.err, "banger: cannot find the home directory") {
			t.Errorf("got %+v", got)
		}
	})
}

// One that fails does not stop the others, and is told.
func TestSeveral(t *testing.T) {
	t.Parallel()
	got := run{args: []string{"vm", "start", "sandbox", "nobody", "old", "old"}, daemon: &fakeDaemon{vms: twoVMs()}}.do(t)
	names := strings.Fields(got.out)
	slices.Sort(names)
	if got.code != 1 || !slices.Equal(names, []string{"old", "sandbox"}) || strings.Count(got.err, "banger: there is no VM \"nobody\"") != 1 {
		t.Errorf("got %+v", got)
	}
}

func TestSizesAreDecidedHere(t *testing.T) {
	t.Parallel()
	var asked api.CreateVM
	daemon := &fakeDaemon{create: func(_ context.Context, request api.CreateVM, report progress.Func) (api.VM, error) {
		asked = request
		report.Step("making it")
		return api.VM{Name: "made"}, nil
	}}
	got := run{args: strings.Fields("vm create --no-start --vcpu 3 --memory 4GiB --disk-size 512M --image other"), daemon: daemon}.do(t)
	want := api.CreateVM{Image: "other", VCPU: 3, MemoryMiB: 4096, DiskBytes: 512 << 20}
	asked.Environment = nil // of whoever runs the test
	if diff := cmp.Diff(want, asked); diff != "" {
		t.Errorf("asked for (-want +got):\n%s", diff)
	}
	if got.out != "made\n" || got.err != "spec: 3 vCPU, 4G RAM, 512M disk\nmaking it\n" {
		t.Errorf("got %+v", got)
	}
}

func TestConfigErrorsAreTold(t *testing.T) {
	t.Parallel()
	config := t.TempDir()
	file := filepath.Join(config, "banger", "config.toml")
	if err := os.Mkdir(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte("\nbogus = 1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	got := run{args: []string{"vm", "create"}, env: map[string]string{"XDG_CONFIG_HOME": config}, daemon: &fakeDaemon{}}.do(t)
	if want := "banger: bad configuration: " + file + ":2: bogus: unknown key\nhint: "; got.code != 1 || !strings.HasPrefix(got.err, want) || got.startedWith != 0 {
		t.Errorf("got %+v, want %q", got, want)
	}
}

func TestCompletion(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ line, want string }{
		{"vm show ", "old sandbox"},
		{"vm show s", "sandbox"},
		{"vm show sandbox ", ""},
		{"vm stop sandbox ", "old"},
		{"vm exec ", "old sandbox"},
		{"vm exec sandbox -- ", ""},
		{"vm ssh o", "old"},
		{"vm cp ", "old: sandbox:"},
		{"vm run ", ""},
		{"vm run --image ", "debian-bookworm other"},
		{"vm run --memory ", ""},
		{"vm run --name ", ""},
		{"vm list ", ""},
		{"image show ", "debian-bookworm other"},
		{"image delete ", "debian-bookworm"},
		{"kernel pull ", "debian-6.12 debian-7"},
		{"kernel delete ", "debian-6.12"},
		{"completion ", "bash fish powershell zsh"},
		{"vm logs --source ", "console metrics network vmm"},
		{"daemon s", "status stop"},
		{"help vm s", "set show ssh start stats stop"},
	} {
		t.Run(test.line, func(t *testing.T) {
			t.Parallel()
			args := append([]string{"__complete"}, strings.Split(test.line, " ")...)
			args = slices.DeleteFunc(args[:len(args)-1], func(s string) bool { return s == "" })
			args = append(args, test.line[strings.LastIndex(test.line, " ")+1:])
			static := strings.HasPrefix(test.line, "completion") || strings.HasPrefix(test.line, "daemon") || strings.HasPrefix(test.line, "help") || strings.Contains(test.line, "--source")
			for _, daemon := range []*fakeDaemon{{vms: twoVMs()}, nil} {
				got := run{args: args, daemon: daemon}.do(t)
				var names []string
				lines := strings.Split(strings.TrimSpace(got.out), "\n")
				for _, line := range lines[:len(lines)-1] {
					name, _, _ := strings.Cut(line, "\t")
					names = append(names, name)
				}
				slices.Sort(names)
				want := test.want
				if daemon == nil && !static {
					want = ""
				}
				if diff := cmp.Diff(want, strings.Join(names, " ")); diff != "" || got.startedWith != 0 {
					t.Errorf("daemon %v: %d starts (-want +got):\n%s", daemon != nil, got.startedWith, diff)
				}
				// 4 is "no files", 2 "no space after it", 16 "directories only".
				directive := lines[len(lines)-1]
				if directive != ":4" && directive != ":6" && (directive != ":16" || test.line != "vm run ") {
					t.Errorf("daemon %v: the directive %s allows file names", daemon != nil, directive)
				}
			}
		})
	}
}

func TestCompletionScripts(t *testing.T) {
	t.Parallel()
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		got := run{args: []string{"completion", shell}}.do(t)
		if got.code != 0 || !strings.Contains(got.out, "__complete") || got.startedWith != 0 {
			t.Errorf("%s: status %d, %d bytes", shell, got.code, len(got.out))
		}
	}
}
