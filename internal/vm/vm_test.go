package vm

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"banger/internal/api"
	"banger/internal/progress"
	"banger/internal/store"
	"banger/internal/vmm"
)

func TestLife(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	vm := h.create(t, api.CreateVM{Name: "one", VCPU: 2, MemoryMiB: 512, DiskBytes: 128 << 20})
	if vm.State != api.StateStopped || vm.VCPU != 2 || vm.MemoryMiB != 512 || vm.DiskBytes != 128<<20 || vm.Address != "172.16.0.16" || vm.MAC != "06:00:ac:10:00:10" || !validID.MatchString(vm.ID) {
		t.Errorf("created %+v", vm)
	}
	if vm.DiskUsed > 8<<20 {
		t.Errorf("a fresh VM takes %d bytes", vm.DiskUsed)
	}
	ctx := t.Context()
	for range 2 { // the second start finds it running
		started, err := h.Start(ctx, vm.ID[:5], progress.Discard)
		if err != nil {
			t.Fatal(err)
		}
		if started.State != api.StateRunning || started.VMM == nil || started.Started == nil || started.NetworkAccess != "the internet" {
			t.Errorf("started: %+v", started)
		}
	}
	boots := h.fake.Boots(vm.ID)
	if len(boots) != 1 {
		t.Fatalf("booted %d times, want once", len(boots))
	}
	var disks []string
	for _, d := range boots[0].Disks {
		disks = append(disks, fmt.Sprint(d.Path[strings.LastIndex(d.Path, "/")+1:], d.ReadOnly))
	}
	if diff := cmp.Diff([]string{"roottrue", "overlay.ext4false", "work.ext4false", "modulestrue"}, disks); diff != "" {
		t.Errorf("disks (-want +got):\n%s", diff)
	}
	configurations := h.fake.Configurations(vm.ID)
	if len(configurations) != 1 || configurations[0].Hostname != "one" || configurations[0].Interface.Address != "172.16.0.16/24" || len(configurations[0].Entropy) < 32 || len(configurations[0].AuthorizedKeys) != 1 {
		t.Errorf("configured %+v", configurations)
	}
	if ports, err := h.Ports(ctx, "one"); err != nil || len(ports) != 1 {
		t.Errorf("ports %v, %v", ports, err)
	}
	if stats, err := h.Stats(ctx, "one"); err != nil || stats.Guest.CPUs != 2 || stats.HostMemory == 0 {
		t.Errorf("stats %+v, %v", stats, err)
	}
	wantKind(t, h.Delete(ctx, "one", api.DeleteVM{}), api.KindState)
	for range 2 {
		stopped, err := h.Stop(ctx, "one", api.StopVM{}, progress.Discard)
		if err != nil {
			t.Fatal(err)
		}
		if stopped.State != api.StateStopped || stopped.VMM != nil || stopped.Started != nil {
			t.Errorf("stopped: %+v", stopped)
		}
	}
	_, err := h.Ports(ctx, "one")
	wantKind(t, err, api.KindState)
	_, err = h.DialAgent(ctx, "one")
	wantKind(t, err, api.KindState)
	h.wantNothing(t, "one")
	if err := h.Delete(ctx, "one", api.DeleteVM{}); err != nil {
		t.Fatal(err)
	}
	h.wantNothing(t)
	_, err = h.Get("one")
	wantKind(t, err, api.KindNotFound)
	wantKind(t, h.Delete(ctx, "one", api.DeleteVM{}), api.KindNotFound)
}

// TestVolatile: what is deleted after a crash of the host is not kept safe from it.
func TestVolatile(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	for _, ephemeral := range []bool{false, true} {
		vm := h.create(t, api.CreateVM{Name: fmt.Sprint("ephemeral-", ephemeral), Start: true, Ephemeral: ephemeral})
		for i, disk := range h.fake.Boots(vm.ID)[0].Disks {
			if want := ephemeral && !disk.ReadOnly; disk.Volatile != want {
				t.Errorf("disk %d of %q is volatile: %v", i, vm.Name, disk.Volatile)
			}
		}
	}
}

func TestKillAndForcedDelete(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	vm := h.create(t, api.CreateVM{Name: "one", Start: true})
	killed, err := h.Kill(t.Context(), "one")
	if err != nil || killed.State != api.StateStopped {
		t.Errorf("killed: %+v, %v", killed, err)
	}
	if len(h.fake.Running()) != 0 {
		t.Error("the VMM of a killed VM runs")
	}
	if _, err := h.Start(t.Context(), vm.ID, progress.Discard); err != nil {
		t.Fatal(err)
	}
	if err := h.Delete(t.Context(), "one", api.DeleteVM{Force: true}); err != nil {
		t.Fatal(err)
	}
	h.wantNothing(t)
}

func TestRequestsThatMakeNoSense(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.create(t, api.CreateVM{Name: "taken"})
	for _, test := range []struct {
		request api.CreateVM
		want    api.Kind
	}{
		{api.CreateVM{Name: "taken"}, api.KindExists},
		{api.CreateVM{Name: "Upper"}, api.KindUsage},
		{api.CreateVM{Name: "-a"}, api.KindUsage},
		{api.CreateVM{Name: "a-"}, api.KindUsage},
		{api.CreateVM{Name: "a.b"}, api.KindUsage},
		{api.CreateVM{Name: "ä"}, api.KindUsage},
		{api.CreateVM{Name: "a\n"}, api.KindUsage},
		{api.CreateVM{Name: strings.Repeat("a", 64)}, api.KindUsage},
		{api.CreateVM{VCPU: -1}, api.KindUsage},
		{api.CreateVM{MemoryMiB: 1}, api.KindUsage},
		{api.CreateVM{DiskBytes: 1}, api.KindUsage},
		{api.CreateVM{Image: "none"}, api.KindNotFound},
	} {
		_, err := h.Create(t.Context(), test.request, progress.Discard)
		wantKind(t, err, test.want)
	}
	h.wantNothing(t, "taken")
	if vm := h.create(t, api.CreateVM{Name: strings.Repeat("a", 63)}); vm.Address != "172.16.0.17" {
		t.Errorf("the second VM has the address %s", vm.Address)
	}
}

func TestGeneratedNames(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for range 20000 { // more than there are pairs
		name := generateName(func(name string) bool { return seen[name] })
		if seen[name] {
			t.Fatalf("%q was generated twice", name)
		}
		if err := api.CheckName(name); err != nil {
			t.Fatal(err)
		}
		seen[name] = true
	}
}

func TestAddresses(t *testing.T) {
	t.Parallel()
	taken := map[string]bool{}
	for {
		address, err := allocateAddress(func(a string) bool { return taken[a] })
		if err != nil {
			wantKind(t, err, api.KindState)
			break
		}
		if taken[address] {
			t.Fatalf("%s was given twice", address)
		}
		taken[address] = true
	}
	if len(taken) != 239 || taken["172.16.0.15"] || taken["172.16.0.255"] || !taken["172.16.0.254"] {
		t.Errorf("%d addresses were given", len(taken))
	}
	delete(taken, "172.16.0.99")
	if got, err := allocateAddress(func(a string) bool { return taken[a] }); err != nil || got != "172.16.0.99" {
		t.Errorf("after one was freed: %s, %v", got, err)
	}
}

func TestResolve(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	for id, name := range map[string]string{"aaaa00000000": "one", "aaab00000000": "two", "bbbb00000000": "aaa"} {
		h.vms[id] = &entry{record: store.VM{ID: id, Name: name}, lock: newLock()}
	}
	defer clear(h.vms)
	for ref, want := range map[string]string{"one": "one", "aaaa": "one", "aaab0": "two", "b": "aaa", "aaa": "aaa", "bbbb00000000": "aaa"} {
		if vm, err := h.Get(ref); err != nil || vm.Name != want {
			t.Errorf("%q is %q, %v; want %q", ref, vm.Name, err, want)
		}
	}
	_, err := h.Get("aa")
	wantKind(t, err, api.KindAmbiguous)
	for _, ref := range []string{"", "nope", "aaaa000000000"} {
		_, err := h.Get(ref)
		wantKind(t, err, api.KindNotFound)
	}
}

func TestSet(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.create(t, api.CreateVM{Name: "one"})
	vm, err := h.Set(t.Context(), "one", api.SetVM{VCPU: 3, DiskBytes: 256 << 20})
	if err != nil {
		t.Fatal(err)
	}
	if vm.VCPU != 3 || vm.MemoryMiB != 256 || vm.DiskBytes != 256<<20 {
		t.Errorf("set %+v", vm)
	}
	for _, request := range []api.SetVM{{VCPU: -1}, {MemoryMiB: 2}, {DiskBytes: 128 << 20}} {
		_, err := h.Set(t.Context(), "one", request)
		wantKind(t, err, api.KindUsage)
	}
	if vm, err = h.Start(t.Context(), "one", progress.Discard); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(workDisk(vm.Dir))
	if err != nil || info.Size() != 256<<20 || h.fake.Boots(vm.ID)[0].VCPU != 3 {
		t.Errorf("after the start: the disk has %v (%v), the spec is %+v", info, err, h.fake.Boots(vm.ID)[0])
	}
}

func TestFailedStartKeepsTheVM(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.fake.FailBoot(errors.New("no luck"))
	var warned []string
	_, err := h.Create(t.Context(), api.CreateVM{Name: "one", Start: true, Ephemeral: true}, func(event progress.Event) {
		if event.Warning {
			warned = append(warned, event.Text)
		}
	})
	if len(warned) != 1 || !strings.Contains(warned[0], "is kept") || !strings.Contains(warned[0], "banger vm delete one") {
		t.Errorf("the warnings %q do not say that the VM is kept", warned)
	}
	if err == nil || !strings.Contains(err.Error(), "no luck") || !strings.Contains(apiHint(err), "banger vm logs one") {
		t.Errorf("error %v with the hint %q", err, apiHint(err))
	}
	vm, err := h.Get("one")
	if err != nil || vm.State != api.StateStopped || vm.Ephemeral || !strings.Contains(vm.LastError, "no luck") {
		t.Errorf("afterwards %+v, %v", vm, err)
	}
	if _, err := os.Stat(h.dirs.Run(vm.ID)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("its sockets: %v", err)
	}
	h.fake.FailBoot(nil)
	if vm, err = h.Start(t.Context(), "one", progress.Discard); err != nil || vm.LastError != "" {
		t.Errorf("the next start: %+v, %v", vm, err)
	}
}

func apiHint(err error) string {
	if known := (*api.Error)(nil); errors.As(err, &known) {
		return known.Hint
	}
	return ""
}

func TestGuestThatNeverAnswers(t *testing.T) {
	t.Parallel()
	h := newHarness(t, func(c *Config) { c.BootTimeout = func(string) time.Duration { return 20 * time.Millisecond } })
	h.fake.Silence(true)
	_, err := h.Create(t.Context(), api.CreateVM{Name: "one", Start: true}, progress.Discard)
	if err == nil || !strings.Contains(err.Error(), "did not answer") || !strings.Contains(err.Error(), "fake ") {
		t.Errorf("error %v, want one with the tail of the console", err)
	}
	if len(h.fake.Running()) != 0 {
		t.Error("its VMM still runs")
	}
	h.wantState(t, "one", api.StateStopped)
	h.wantNothing(t, "one")
}

func TestCanceledCreateLeavesNothing(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.fake.Silence(true)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error)
	go func() {
		_, err := h.Create(ctx, api.CreateVM{Name: "one", Start: true}, progress.Discard)
		done <- err
	}()
	eventually(t, "the VM boots", func() bool { return len(h.fake.Running()) == 1 })
	h.wantState(t, "one", api.StateStarting)
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want one of the cancellation", err)
	}
	h.wantNothing(t)
}

// A request's end must not end the VM that it started.
func TestVMOutlivesTheRequest(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	ctx, cancel := context.WithCancel(t.Context())
	if _, err := h.Create(ctx, api.CreateVM{Name: "one", Start: true}, progress.Discard); err != nil {
		t.Fatal(err)
	}
	cancel()
	if _, err := h.Ports(t.Context(), "one"); err != nil {
		t.Error(err)
	}
	h.wantState(t, "one", api.StateRunning)
}

func TestStopAndKillInterruptAStart(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(*harness) error{
		"stop": func(h *harness) error {
			_, err := h.Stop(h.background, "one", api.StopVM{}, progress.Discard)
			return err
		},
		"kill":   func(h *harness) error { _, err := h.Kill(h.background, "one"); return err },
		"delete": func(h *harness) error { return h.Delete(h.background, "one", api.DeleteVM{Force: true}) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHarness(t)
			h.fake.Silence(true)
			done := make(chan error)
			go func() {
				_, err := h.Create(t.Context(), api.CreateVM{Name: "one", Start: true}, progress.Discard)
				done <- err
			}()
			eventually(t, "the VM boots", func() bool { return len(h.fake.Running()) == 1 })
			if err := end(h); err != nil {
				t.Fatal(err)
			}
			wantKind(t, <-done, api.KindState)
			if len(h.fake.Running()) != 0 {
				t.Error("the VMM still runs")
			}
			if name == "delete" {
				h.wantNothing(t)
			} else {
				h.wantNothing(t, "one")
			}
		})
	}
}

func TestGuestThatDoesNotStopIsKilled(t *testing.T) {
	t.Parallel()
	h := newHarness(t, func(c *Config) { c.StopTimeout = 20 * time.Millisecond })
	h.fake.Handle(func(_ vmm.Spec, agent http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/v1/shutdown" {
				w.WriteHeader(http.StatusNoContent)
				return
			}
			agent.ServeHTTP(w, r)
		})
	})
	h.create(t, api.CreateVM{Name: "one", Start: true})
	warned := false
	vm, err := h.Stop(t.Context(), "one", api.StopVM{}, func(e progress.Event) { warned = warned || e.Warning })
	if err != nil || vm.State != api.StateStopped || !warned {
		t.Errorf("stopped %+v, %v, warned: %v", vm, err, warned)
	}
	if len(h.fake.Running()) != 0 {
		t.Error("the VMM still runs")
	}
}

// A guest that dies before its agent answers is booted once more, not forever.
func TestGuestThatDiesEarly(t *testing.T) {
	t.Parallel()
	for _, deaths := range []int{1, 2} {
		t.Run(strconv.Itoa(deaths), func(t *testing.T) {
			t.Parallel()
			h := newHarness(t)
			var left atomic.Int32
			left.Store(int32(deaths))
			h.fake.Handle(func(spec vmm.Spec, agent http.Handler) http.Handler {
				return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if left.Add(-1) >= 0 {
						if was, err := h.fake.Crash(context.WithoutCancel(r.Context()), spec.ID); !was || err != nil {
							t.Errorf("no VMM to end: %v, %v", was, err)
						}
						panic(http.ErrAbortHandler)
					}
					agent.ServeHTTP(w, r)
				})
			})
			var warned atomic.Bool
			vm, err := h.Create(t.Context(), api.CreateVM{Name: "one", Start: true}, func(event progress.Event) {
				if strings.Contains(event.Text, "once more") {
					warned.Store(true)
				}
			})
			if !warned.Load() {
				t.Error("nobody was told")
			}
			if deaths == 1 {
				if err != nil || vm.State != api.StateRunning {
					t.Errorf("got %+v, %v, want a VM that runs", vm, err)
				}
				return
			}
			if !errors.Is(err, errNeverAnswered) && (err == nil || !strings.Contains(err.Error(), errNeverAnswered.Error())) {
				t.Errorf("error %v, want that the guest never answered", err)
			}
			kept, err := h.Get("one")
			if err != nil || len(h.fake.Boots(kept.ID)) != 2 {
				t.Errorf("%d boots (%v), want 2", len(h.fake.Boots(kept.ID)), err)
			}
			h.wantState(t, "one", api.StateStopped)
			h.wantNothing(t, "one")
		})
	}
}

func TestCrashOfTheVMM(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	vm := h.create(t, api.CreateVM{Name: "one", Start: true})
	if was, err := h.fake.Crash(t.Context(), vm.ID); !was || err != nil {
		t.Fatal(was, err)
	}
	eventually(t, "the VM is stopped", func() bool {
		vm, err := h.Get("one")
		return err == nil && vm.State == api.StateStopped
	})
	if _, err := h.Start(t.Context(), "one", progress.Discard); err != nil {
		t.Fatal(err)
	}
	h.wantState(t, "one", api.StateRunning)
}

func TestAnotherImageIsRefused(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.create(t, api.CreateVM{Name: "one"})
	h.mu.Lock()
	h.imageDigest = "sha256:other"
	h.mu.Unlock()
	_, err := h.Start(t.Context(), "one", progress.Discard)
	wantKind(t, err, api.KindState)
}

func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	var wait sync.WaitGroup
	for range 10 {
		wait.Go(func() {
			if _, err := h.Create(t.Context(), api.CreateVM{Start: true}, progress.Discard); err != nil {
				t.Error(err)
			}
		})
	}
	wait.Wait()
	vms := h.List()
	if len(vms) != 10 {
		t.Fatalf("%d VMs", len(vms))
	}
	var names []string
	for _, vm := range vms {
		names = append(names, vm.Name)
		if vm.State != api.StateRunning {
			t.Errorf("%s is %s", vm.Name, vm.State)
		}
	}
	if !slices.IsSorted(names) {
		t.Errorf("not sorted: %v", names)
	}
	for _, vm := range vms {
		for range 2 { // twice at once: one of the two finds nothing
			wait.Go(func() {
				if err := h.Delete(t.Context(), vm.ID, api.DeleteVM{Force: true}); err != nil {
					wantKind(t, err, api.KindNotFound)
				}
			})
		}
	}
	wait.Wait()
	h.wantNothing(t)
}

func TestOperationsWaitForEachOther(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.create(t, api.CreateVM{Name: "one"})
	begun, goOn := make(chan struct{}), make(chan struct{})
	h.fake.OnBoot(func(context.Context, vmm.Spec) error { close(begun); <-goOn; return nil })
	var wait sync.WaitGroup
	wait.Go(func() {
		if _, err := h.Start(t.Context(), "one", progress.Discard); err != nil {
			t.Error(err)
		}
	})
	<-begun
	// The wait says what for, and can be given up.
	ctx, cancel := context.WithCancel(t.Context())
	var said string
	_, err := h.Start(ctx, "one", func(e progress.Event) { said = e.Text; cancel() })
	if !errors.Is(err, context.Canceled) || !strings.Contains(said, `the start of "one"`) {
		t.Errorf("error %v, said %q", err, said)
	}
	// Others are not held up.
	h.create(t, api.CreateVM{Name: "two"})
	if vms := h.List(); len(vms) != 2 {
		t.Errorf("%d VMs", len(vms))
	}
	close(goOn)
	wait.Wait()
	h.wantState(t, "one", api.StateRunning)
}

// TestTroubleOfOneVM has files of VMs that cannot be read.
func TestTroubleOfOneVM(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	mute := h.create(t, api.CreateVM{Name: "mute", Start: true})
	lost := h.create(t, api.CreateVM{Name: "lost"})
	h.create(t, api.CreateVM{Name: "well", Start: true})
	note, disk := accessFile(h.dirs.Run(mute.ID)), workDisk(h.dirs.VM(lost.ID))
	err := errors.Join(os.Remove(note), os.Mkdir(note, 0o700), os.Remove(disk), os.Symlink(disk, disk))
	if err != nil {
		t.Fatal(err)
	}
	access := make(map[string]string)
	for _, vm := range h.List() {
		access[vm.Name], _, _ = strings.Cut(vm.NetworkAccess, ":")
	}
	if diff := cmp.Diff(map[string]string{"mute": "unknown", "lost": "", "well": "the internet"}, access); diff != "" {
		t.Errorf("the VMs and what they reach (-want +got):\n%s", diff)
	}
	if vm, err := h.Get("mute"); err != nil || !strings.Contains(vm.NetworkAccess, note) {
		t.Errorf("it reaches %q, %v", vm.NetworkAccess, err)
	}
	if _, err := h.Get("lost"); err == nil || !strings.Contains(err.Error(), disk) {
		t.Errorf("a VM whose disk is lost: got error %v", err)
	}
}

func TestUnused(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	remove := func() error { return nil }
	h.create(t, api.CreateVM{Name: "one"})
	wantKind(t, h.Unused("image", "debian-bookworm", remove), api.KindInUse)
	wantKind(t, h.Unused("kernel", "kernel", remove), api.KindInUse)
	if err := h.Delete(t.Context(), "one", api.DeleteVM{}); err != nil {
		t.Fatal(err)
	}
	release, err := h.use(t.Context(), "debian-bookworm")
	if err != nil {
		t.Fatal(err)
	}
	wantKind(t, h.Unused("image", "debian-bookworm", remove), api.KindInUse)
	release()
	err = h.Unused("image", "debian-bookworm", func() error {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := h.use(ctx, "debian-bookworm"); err == nil {
			t.Error("an image that is being deleted was given out")
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

func TestReplaceImage(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.create(t, api.CreateVM{Name: "one"})
	refused := errors.New("the disk is full")
	err := h.ReplaceImage(t.Context(), "debian-bookworm", func() (string, error) { return "", refused }, func() error {
		t.Error("published an image without keeping the other")
		return nil
	})
	if !errors.Is(err, refused) {
		t.Errorf("got error %v", err)
	}
	// What runs meanwhile finds the VM with the image that it was made from.
	err = h.ReplaceImage(t.Context(), "debian-bookworm", func() (string, error) { return "kept", nil }, func() error {
		if users := h.ImageUsers("kept"); len(users) != 1 {
			t.Errorf("before the other is published, %q have the kept one", users)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if users := h.ImageUsers("debian-bookworm"); len(users) != 0 {
		t.Errorf("%q have the new image", users)
	}
	err = h.ReplaceImage(t.Context(), "debian-bookworm", func() (string, error) { return "", errors.New("nobody needs it") }, func() error { return nil })
	if err != nil {
		t.Error(err)
	}
}

// TestImageOfAReference has the image replaced as soon as it was made, and
// again, and deleted, while the kernel is fetched.
func TestImageOfAReference(t *testing.T) {
	t.Parallel()
	const reference, name = "alpine:3.20", "alpine-3.20"
	var h *harness
	nobody := func() (string, error) { return "", errors.New("no VM has it") }
	replace := func(digest string) error {
		return h.ReplaceImage(t.Context(), name, nobody, func() error {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.imageDigest = digest
			return nil
		})
	}
	looks := 0
	h = newHarness(t, func(c *Config) {
		image, kernel := c.Image, c.Kernel
		c.Image = func(ctx context.Context, asked string, report progress.Func) (Image, error) {
			if asked != reference && asked != name {
				t.Errorf("asked for the image %q", asked)
			}
			found, err := image(ctx, "debian-bookworm", report)
			found.Name = name
			if looks++; looks == 1 {
				if err := replace("sha256:moved"); err != nil {
					t.Error(err)
				}
			}
			return found, err
		}
		c.Kernel = func(ctx context.Context, asked string, report progress.Func) (Kernel, error) {
			wantKind(t, h.Unused("image", name, func() error { t.Error("the image was deleted"); return nil }), api.KindInUse)
			wantKind(t, h.Replaceable(name), api.KindInUse)
			wantKind(t, replace("sha256:again"), api.KindInUse)
			return kernel(ctx, asked, report)
		}
	})
	vm := h.create(t, api.CreateVM{Name: "one", Image: reference, Start: true})
	if vm.Image != name || vm.ImageDigest != "sha256:moved" {
		t.Errorf("the VM was made from %q of digest %q", vm.Image, vm.ImageDigest)
	}
	// Nothing is in use any more by who made the VM.
	if err := h.Delete(t.Context(), "one", api.DeleteVM{Force: true}); err != nil {
		t.Fatal(err)
	}
	for _, unused := range []string{reference, name} {
		if err := h.Unused("image", unused, func() error { return nil }); err != nil {
			t.Error(err)
		}
	}
}

func TestParseUse(t *testing.T) {
	t.Parallel()
	stat := "7 (a ) b) S 1 7 7 0 -1 4194560 1 0 0 0 150 50 0 0 20 0 1 0 100 1000 3 18446744073709551615"
	memory, seconds, err := parseUse(stat)
	if err != nil || memory != 3*int64(os.Getpagesize()) || seconds != 2 {
		t.Errorf("parseUse = %d, %v, %v", memory, seconds, err)
	}
	if _, _, err := parseUse("nonsense"); err == nil {
		t.Error("nonsense was parsed")
	}
}

func FuzzPrintable(f *testing.F) {
	f.Add("\x1b[31mred\r\n\xff")
	f.Fuzz(func(t *testing.T, text string) {
		for _, r := range printable(text) {
			if r < ' ' || r == 0x7f {
				t.Errorf("%q holds %q", printable(text), r)
			}
		}
	})
}
