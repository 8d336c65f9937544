package daemon

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"banger/internal/agent/wire"
	"banger/internal/api"
	"banger/internal/client"
	"banger/internal/config"
	"banger/internal/disk"
	"banger/internal/paths"
	"banger/internal/progress"
	"banger/internal/store"
	"banger/internal/tool"
	"banger/internal/vm"
	"banger/internal/vmm"
	"banger/internal/vmm/vmmtest"
)

// patience bounds every wait of a test.
const patience = 2 * time.Minute

// fakeImages is a catalog of one image whose pull waits for go on.
type fakeImages struct {
	Catalog[api.Image]
	pulling chan struct{} // gets one for each pull
	goOn    chan struct{}
}

func (f *fakeImages) List(bool) ([]api.Image, error) {
	return []api.Image{{Name: "debian-bookworm"}}, nil
}

func (f *fakeImages) Get(name string) (api.Image, error) {
	if name == "panic" {
		panic("on purpose")
	}
	if name != "debian-bookworm" {
		return api.Image{}, &api.Error{Kind: api.KindNotFound, Message: "no image", Hint: "look"}
	}
	return api.Image{Name: name}, nil
}

func (f *fakeImages) Pull(ctx context.Context, request api.Pull, report progress.Func) (api.Image, error) {
	report.Step("pulling")
	f.pulling <- struct{}{}
	select {
	case <-f.goOn:
		return f.Get(request.Name)
	case <-ctx.Done():
		return api.Image{}, ctx.Err()
	}
}

func (f *fakeImages) Delete(context.Context, string) error { return nil }

type fakeKernels struct{ Catalog[api.Kernel] }

// running is a server on a real socket.
type running struct {
	*client.Client
	dirs    paths.Dirs
	fake    *vmmtest.Fake
	images  *fakeImages
	stopped chan struct{}
	server  *Server
}

func newServer(t *testing.T) *running {
	t.Helper()
	for _, name := range disk.Tools() {
		if _, err := tool.Find(name); err != nil {
			t.Skipf("needs e2fsprogs: %v", err)
		}
	}
	root, err := os.MkdirTemp("", "bd") //nolint:usetesting // short enough for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(root) })
	dirs := paths.Dirs{Home: root, Config: filepath.Join(root, "c"), State: filepath.Join(root, "s"), Runtime: filepath.Join(root, "r")}
	if err := errors.Join(dirs.Make(), os.WriteFile(filepath.Join(root, "disk"), nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	db, err := store.Open(t.Context(), dirs.Database())
	if err != nil {
		t.Fatal(err)
	}
	fake := vmmtest.NewFake(t)
	log := slog.New(slog.DiscardHandler)
	manager := vm.New(vm.Config{
		Dirs: dirs, Store: db, Drivers: []vmm.Driver{fake}, Log: log,
		Image: func(_ context.Context, name string, _ progress.Func) (vm.Image, error) {
			return vm.Image{Name: name, Digest: "d", Path: filepath.Join(root, "disk"), Kernel: "k"}, nil
		},
		Kernel: func(_ context.Context, name string, _ progress.Func) (vm.Kernel, error) {
			return vm.Kernel{Name: name, Digest: "d", Modules: filepath.Join(root, "disk")}, nil
		},
		Load: func() (config.Config, error) {
			return config.Config{DefaultImage: "debian-bookworm", VMDefaults: config.Request{VCPU: 1, MemoryMiB: 256, DiskBytes: 64 << 20}}, nil
		},
		AuthorizedKeys: func() ([]string, error) { return nil, nil },
		NewHostKey:     func() (wire.HostKey, error) { return wire.HostKey{}, nil },
		Publish:        func([]store.VM) error { return nil },
		Networks: []vm.Network{{Mode: vmm.NetworkUser, Connect: func(context.Context, vm.Link) (vmm.NIC, func() error, error) {
			return vmm.NIC{}, func() error { return nil }, nil
		}}},
		BootTimeout: func(string) time.Duration { return patience },
		StopTimeout: patience, HoldGrace: patience,
	})
	if err := manager.Reconcile(t.Context()); err != nil {
		t.Fatal(err)
	}
	listener, err := listen(t.Context(), dirs.Socket(), log)
	if err != nil {
		t.Fatal(err)
	}
	r := &running{
		Client: client.New(dirs.Socket()), dirs: dirs, fake: fake, stopped: make(chan struct{}),
		images: &fakeImages{pulling: make(chan struct{}), goOn: make(chan struct{})},
	}
	r.server = &Server{
		VMs: manager, Images: r.images, Kernels: fakeKernels{}, About: api.Daemon{Version: "v", Build: "b", PID: 7},
		Stop: sync.OnceFunc(func() { close(r.stopped) }), Log: log,
	}
	web := &http.Server{Handler: r.server.Handler(), ReadHeaderTimeout: patience}
	go func() { _ = web.Serve(listener) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), patience)
		defer cancel()
		if err := manager.Close(ctx); err != nil {
			t.Error(err)
		}
		r.server.streams.close()
		_ = web.Close()
		if err := db.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

func (r *running) create(t *testing.T, request api.CreateVM) api.VM {
	t.Helper()
	vm, err := r.CreateVM(t.Context(), request, progress.Discard)
	if err != nil {
		t.Fatal(err)
	}
	return vm
}

func wantKind(t *testing.T, err error, want api.Kind) {
	t.Helper()
	known := (*api.Error)(nil)
	if !errors.As(err, &known) || known.Kind != want {
		t.Errorf("error %v, want one of kind %q", err, want)
	}
}

func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !holds(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not seen in time: %s", what)
		}
	}
}

func TestLifeOverTheSocket(t *testing.T) {
	t.Parallel()
	r := newServer(t)
	ctx := t.Context()
	var steps []string
	created, err := r.CreateVM(ctx, api.CreateVM{Name: "one", Start: true}, func(e progress.Event) { steps = append(steps, e.Text) })
	if err != nil {
		t.Fatal(err)
	}
	if created.State != api.StateRunning || len(steps) < 2 {
		t.Errorf("created %+v with the steps %q", created, steps)
	}
	about, err := r.Daemon(ctx)
	if err != nil || about.VMs != 1 || about.Build != "b" {
		t.Errorf("about: %+v, %v", about, err)
	}
	shown, err := r.VM(ctx, created.ID[:6])
	if err != nil {
		t.Fatal(err)
	}
	listed, err := r.VMs(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]api.VM{shown}, listed); diff != "" {
		t.Errorf("list against show:\n%s", diff)
	}
	if ports, err := r.Ports(ctx, "one"); err != nil || len(ports) != 1 {
		t.Errorf("ports %v, %v", ports, err)
	}
	if stats, err := r.Stats(ctx, "one"); err != nil || stats.VM != "one" {
		t.Errorf("stats %v, %v", stats, err)
	}
	wantKind(t, r.DeleteVM(ctx, "one", api.DeleteVM{}), api.KindState)
	if vm, err := r.StopVM(ctx, "one", api.StopVM{}, progress.Discard); err != nil || vm.State != api.StateStopped {
		t.Errorf("stopped %+v, %v", vm, err)
	}
	if vm, err := r.SetVM(ctx, "one", api.SetVM{VCPU: 3}); err != nil || vm.VCPU != 3 {
		t.Errorf("set %+v, %v", vm, err)
	}
	if vm, err := r.StartVM(ctx, "one", api.StartVM{}, progress.Discard); err != nil || vm.State != api.StateRunning {
		t.Errorf("started %+v, %v", vm, err)
	}
	if vm, err := r.KillVM(ctx, "one"); err != nil || vm.State != api.StateStopped {
		t.Errorf("killed %+v, %v", vm, err)
	}
	if err := r.DeleteVM(ctx, "one", api.DeleteVM{}); err != nil {
		t.Error(err)
	}
	_, err = r.VM(ctx, "one")
	wantKind(t, err, api.KindNotFound)
	_, err = r.CreateVM(ctx, api.CreateVM{Name: "Bad"}, progress.Discard)
	wantKind(t, err, api.KindUsage)
}

func TestErrorsKeepKindAndHint(t *testing.T) {
	t.Parallel()
	r := newServer(t)
	_, err := r.Image(t.Context(), "none")
	known := (*api.Error)(nil)
	if !errors.As(err, &known) || *known != (api.Error{Kind: api.KindNotFound, Message: "no image", Hint: "look"}) {
		t.Errorf("got %#v", err)
	}
	// A panic is one request's failure.
	_, err = r.Image(t.Context(), "panic")
	wantKind(t, err, api.KindInternal)
	if _, err := r.Image(t.Context(), "debian-bookworm"); err != nil {
		t.Error(err)
	}
}

func TestClientThatGoesAwayCancels(t *testing.T) {
	t.Parallel()
	r := newServer(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() {
		_, err := r.PullImage(ctx, api.Pull{Name: "debian-bookworm"}, progress.Discard)
		done <- err
	}()
	<-r.images.pulling
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("pull: %v", err)
	}
	// The same for a VM: it is undone before the client hears of it.
	r.fake.Silence(true)
	ctx, cancel = context.WithCancel(t.Context())
	go func() {
		_, err := r.CreateVM(ctx, api.CreateVM{Start: true}, progress.Discard)
		done <- err
	}()
	eventually(t, "the VM boots", func() bool { return len(r.fake.Running()) == 1 })
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("create: %v", err)
	}
	if vms, err := r.VMs(t.Context()); err != nil || len(vms) != 0 || len(r.fake.Running()) != 0 {
		t.Errorf("left: %v, %v, %v", vms, r.fake.Running(), err)
	}
}

func TestAgentStream(t *testing.T) {
	t.Parallel()
	r := newServer(t)
	_, err := r.DialAgent(t.Context(), "none")
	wantKind(t, err, api.KindNotFound)
	r.create(t, api.CreateVM{Name: "one", Start: true})
	conn, err := r.DialAgent(t.Context(), "one")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	// The end of the request goes through, and the answer comes after it.
	if _, err := io.WriteString(conn, "GET /v1/hello HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	var hello wire.Hello
	if err := json.NewDecoder(response.Body).Decode(&hello); err != nil || !hello.Configured {
		t.Errorf("hello %+v, %v", hello, err)
	}
}

// One side's end must reach the other as an end, and leave the way back open.
func TestSpliceHalfClose(t *testing.T) {
	t.Parallel()
	client, a := socketPair(t)
	guest, b := socketPair(t)
	done := make(chan struct{})
	go func() { defer close(done); splice(a, b) }()
	if _, err := client.Write([]byte("question")); err != nil {
		t.Fatal(err)
	}
	if err := closeWrite(client); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(guest); err != nil || string(got) != "question" {
		t.Errorf("the guest got %q, %v", got, err)
	}
	if _, err := guest.Write([]byte("answer")); err != nil {
		t.Fatal(err)
	}
	guest.Close()
	if got, err := io.ReadAll(client); err != nil || string(got) != "answer" {
		t.Errorf("the client got %q, %v", got, err)
	}
	<-done
}

func socketPair(t *testing.T) (net.Conn, net.Conn) {
	t.Helper()
	dir, err := os.MkdirTemp("", "sp") //nolint:usetesting // short enough for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	listener, err := new(net.ListenConfig).Listen(t.Context(), "unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	accepted := make(chan net.Conn, 1)
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			t.Error(err)
		}
		accepted <- conn
	}()
	ours, err := new(net.Dialer).DialContext(t.Context(), "unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	theirs := <-accepted
	t.Cleanup(func() { ours.Close(); theirs.Close() })
	return ours, theirs
}

func TestClientThatIsGoneIsSeen(t *testing.T) {
	t.Parallel()
	client, server := socketPair(t)
	if gone(server) {
		t.Error("a client that is there is gone")
	}
	if err := closeWrite(client); err != nil {
		t.Fatal(err)
	}
	if gone(server) {
		t.Error("a client that has closed its half is gone")
	}
	client.Close()
	eventually(t, "the client is gone", func() bool { return gone(server) })
}

func TestHoldOverTheSocket(t *testing.T) {
	t.Parallel()
	r := newServer(t)
	r.create(t, api.CreateVM{Name: "one", Start: true, Ephemeral: true})
	release, err := r.Hold(t.Context(), "one")
	if err != nil {
		t.Fatal(err)
	}
	if vm, err := r.VM(t.Context(), "one"); err != nil || vm.State != api.StateRunning {
		t.Errorf("held: %+v, %v", vm, err)
	}
	release()
	eventually(t, "it is deleted", func() bool { _, err := r.VM(t.Context(), "one"); return err != nil })
	if len(r.fake.Running()) != 0 {
		t.Error("its VMM runs")
	}
}

func TestLogs(t *testing.T) {
	t.Parallel()
	r := newServer(t)
	vm := r.create(t, api.CreateVM{Name: "one"})
	path := filepath.Join(vm.Dir, "console.log")
	appendTo := func(text string) {
		file, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
		if err == nil {
			_, err = file.WriteString(text)
			file.Close()
		}
		if err != nil {
			t.Error(err)
		}
	}
	appendTo("first\n")
	var all strings.Builder
	if err := r.Logs(t.Context(), "one", "console", false, &all); err != nil || all.String() != "first\n" {
		t.Errorf("logs %q, %v", all.String(), err)
	}
	wantKind(t, r.Logs(t.Context(), "one", "nonsense", false, io.Discard), api.KindUsage)

	reader, writer := io.Pipe()
	done := make(chan error, 1)
	go func() { done <- r.Logs(t.Context(), "one", "console", true, writer); writer.Close() }()
	lines := bufio.NewScanner(reader)
	next := func(want string) {
		t.Helper()
		if !lines.Scan() || lines.Text() != want {
			t.Errorf("followed %q, want %q", lines.Text(), want)
		}
	}
	next("first")
	appendTo("second\n")
	next("second")
	// A start begins the log anew.
	if err := os.WriteFile(path, []byte("new\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	next("new")
	if err := r.DeleteVM(t.Context(), "one", api.DeleteVM{}); err != nil {
		t.Fatal(err)
	}
	if lines.Scan() {
		t.Errorf("after the end: %q", lines.Text())
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestForeignRequestsAreRefused(t *testing.T) {
	t.Parallel()
	r := newServer(t)
	web := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", r.dirs.Socket())
	}}}
	for _, test := range []struct {
		host, header string
		want         int
	}{
		{"bangerd", "", http.StatusOK},
		{"localhost", "", http.StatusBadRequest},
		{"bangerd", "Origin", http.StatusBadRequest},
		{"bangerd", "Referer", http.StatusBadRequest},
	} {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+test.host+"/v1/daemon", nil)
		if err != nil {
			t.Fatal(err)
		}
		if test.header != "" {
			request.Header.Set(test.header, "http://bangerd")
		}
		response, err := web.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode != test.want {
			t.Errorf("host %q, header %q: status %d, want %d", test.host, test.header, response.StatusCode, test.want)
		}
	}
	for path, want := range map[string]int{"/v1/nonsense": http.StatusNotFound, "/v1/vms/x/agent": http.StatusBadRequest, "/v1/vms/x/hold": http.StatusBadRequest} {
		request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://bangerd"+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		response, err := web.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		if response.StatusCode != want {
			t.Errorf("%s: status %d, want %d", path, response.StatusCode, want)
		}
	}
}

func TestStop(t *testing.T) {
	t.Parallel()
	r := newServer(t)
	request, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://bangerd/v1/daemon/stop", nil)
	if err != nil {
		t.Fatal(err)
	}
	web := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", r.dirs.Socket())
	}}}
	response, err := web.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != http.StatusNoContent {
		t.Errorf("status %d", response.StatusCode)
	}
	<-r.stopped
}
