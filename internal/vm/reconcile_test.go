package vm

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"banger/internal/api"
	"banger/internal/progress"
	"banger/internal/store"
)

func TestRunningVMsAreAdopted(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	one := h.create(t, api.CreateVM{Name: "one", Start: true})
	two := h.create(t, api.CreateVM{Name: "two", Start: true})
	h.create(t, api.CreateVM{Name: "three"})
	h.abandon(t)
	if _, err := h.fake.Crash(t.Context(), two.ID); err != nil {
		t.Fatal(err)
	}
	h.open(t)
	h.wantState(t, "one", api.StateRunning)
	h.wantState(t, "two", api.StateStopped)
	h.wantState(t, "three", api.StateStopped)
	got, err := h.Get("one")
	if err != nil || got.VMM == nil || got.VMM.PID != one.VMM.PID || got.Started == nil || !got.Started.Equal(*one.Started) {
		t.Errorf("adopted %+v, %v", got, err)
	}
	// It was configured already.
	if n := len(h.fake.Configurations(one.ID)); n != 1 {
		t.Errorf("configured %d times, want once", n)
	}
	if _, err := h.Ports(t.Context(), "one"); err != nil {
		t.Error(err)
	}
	if _, err := h.Stop(t.Context(), "one", api.StopVM{}, progress.Discard); err != nil {
		t.Error(err)
	}
	h.wantNothing(t, "one", "two", "three")
}

// Killed at whatever step, what the next bangerd finds can be finished or
// taken back.
// A VMM of a driver that is no longer there is not taken for one that has
// ended, and can still be killed.
func TestVMMThatCannotBeAdopted(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.create(t, api.CreateVM{Name: "one", Start: true})
	h.abandon(t)
	h.config.Drivers = nil
	h.open(t)
	if _, err := h.Stop(t.Context(), "one", api.StopVM{}, progress.Discard); err == nil {
		t.Error("a VM was stopped that nobody can talk to")
	}
	if err := h.Delete(t.Context(), "one", api.DeleteVM{}); err == nil {
		t.Error("a VM was deleted that runs")
	}
	if len(h.fake.Running()) != 1 {
		t.Fatal("it does not run any more")
	}
	if _, err := h.Kill(t.Context(), "one"); err != nil {
		t.Fatal(err)
	}
	if len(h.fake.Running()) != 0 {
		t.Error("it still runs")
	}
	if err := h.Delete(t.Context(), "one", api.DeleteVM{}); err != nil {
		t.Error(err)
	}
	h.wantNothing(t)
}

func TestCrashAtEveryStepOfCreate(t *testing.T) {
	t.Parallel()
	for n := range 10 {
		h := newHarness(t)
		frozen := h.killedAt(t, n, func() {
			_, _ = h.Create(t.Context(), api.CreateVM{Name: "one", Start: true}, progress.Discard)
		})
		if !frozen {
			if n < 4 {
				t.Errorf("only %d writes", n)
			}
			h.wantState(t, "one", api.StateRunning)
			return
		}
		vms := h.List()
		if len(vms) == 0 {
			h.wantNothing(t)
			continue
		}
		// Past its creation it is there, and either runs or can be started.
		eventually(t, "no operation runs", func() bool {
			vm, err := h.Get("one")
			return err != nil || vm.State == api.StateRunning || vm.State == api.StateStopped
		})
		if _, err := h.Start(t.Context(), "one", progress.Discard); err != nil {
			t.Errorf("after a crash at write %d: %v", n, err)
		}
		h.wantNothing(t, "one")
	}
	t.Error("the operation has too many writes")
}

func TestCrashAtEveryStepOfDelete(t *testing.T) {
	t.Parallel()
	for n := range 10 {
		h := newHarness(t)
		h.create(t, api.CreateVM{Name: "one", Start: true})
		frozen := h.killedAt(t, n, func() {
			_ = h.Delete(t.Context(), "one", api.DeleteVM{Force: true})
		})
		if !frozen {
			h.wantNothing(t)
			return
		}
		if n == 0 { // not even the intent was recorded
			h.wantState(t, "one", api.StateRunning)
			continue
		}
		h.wantNothing(t)
	}
	t.Error("the operation has too many writes")
}

func TestHalfDoneIsFinished(t *testing.T) {
	t.Parallel()
	for _, pending := range []store.Pending{store.PendingCreate, store.PendingDelete} {
		h := newHarness(t)
		vm := h.create(t, api.CreateVM{Name: "one", Start: true})
		e, err := h.resolve("one")
		if err != nil {
			t.Fatal(err)
		}
		if err := h.change(t.Context(), e, func(r *store.VM) { r.Pending = pending }); err != nil {
			t.Fatal(err)
		}
		h.crash(t)
		h.wantNothing(t)
		if _, err := os.Stat(vm.Dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("its directory: %v", err)
		}
	}
}

func TestStartIsFinished(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	vm := h.create(t, api.CreateVM{Name: "one", Start: true})
	e, err := h.resolve("one")
	if err != nil {
		t.Fatal(err)
	}
	if err := h.change(t.Context(), e, func(r *store.VM) { r.Pending = store.PendingStart }); err != nil {
		t.Fatal(err)
	}
	h.crash(t)
	eventually(t, "the VM runs", func() bool {
		vm, err := h.Get("one")
		return err == nil && vm.State == api.StateRunning
	})
	if n := len(h.fake.Configurations(vm.ID)); n != 2 {
		t.Errorf("configured %d times, want twice", n)
	}
	h.wantNothing(t, "one")
}

func TestOrphans(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.create(t, api.CreateVM{Name: "one"})
	orphan := "0123456789ab"
	mine := []string{"notes", "0123456789abc", "0123456789AB"}
	for _, name := range append(mine, orphan) {
		for _, dir := range []string{h.dirs.VM(name), h.dirs.Run(name)} {
			if err := os.MkdirAll(filepath.Join(dir, "x"), 0o700); err != nil {
				t.Fatal(err)
			}
		}
	}
	h.crash(t)
	for _, dir := range []string{h.dirs.VM(orphan), h.dirs.Run(orphan)} {
		if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is still there: %v", dir, err)
		}
	}
	for _, name := range mine {
		for _, dir := range []string{h.dirs.VM(name), h.dirs.Run(name)} {
			if _, err := os.Stat(filepath.Join(dir, "x")); err != nil {
				t.Errorf("what is not a VM's was touched: %v", err)
			}
		}
	}
}

func TestLostDatabaseDoesNotLoseVMs(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	vm := h.create(t, api.CreateVM{Name: "one"})
	h.abandon(t)
	if err := os.Remove(h.dirs.Database()); err != nil {
		t.Fatal(err)
	}
	h.open(t)
	if _, err := os.Stat(workDisk(vm.Dir)); err != nil {
		t.Errorf("the disk of a VM whose database was lost: %v", err)
	}
}

func TestEphemeral(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.create(t, api.CreateVM{Name: "one", Start: true, Ephemeral: true})
	h.create(t, api.CreateVM{Name: "stays"})
	first, err := h.Hold("one")
	if err != nil {
		t.Fatal(err)
	}
	second, err := h.Hold("one")
	if err != nil {
		t.Fatal(err)
	}
	other, err := h.Hold("stays")
	if err != nil {
		t.Fatal(err)
	}
	other()
	first()
	first() // counts once
	h.wantState(t, "one", api.StateRunning)
	second()
	eventually(t, "it is deleted, and that is published", func() bool {
		_, err := h.Get("one")
		h.mu.Lock()
		defer h.mu.Unlock()
		return err != nil && slices.Equal(h.published, []string{"stays"})
	})
	h.wantNothing(t, "stays")
	_, err = h.Hold("one")
	wantKind(t, err, api.KindNotFound)
}

func TestEphemeralThatNobodyHolds(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.create(t, api.CreateVM{Name: "one", Start: true, Ephemeral: true})
	if _, err := h.Hold("one"); err != nil { // and is gone with bangerd
		t.Fatal(err)
	}
	h.config.HoldGrace = time.Millisecond
	h.crash(t)
	eventually(t, "it is deleted", func() bool { _, err := h.Get("one"); return err != nil })
	h.create(t, api.CreateVM{Name: "two", Start: true, Ephemeral: true})
	eventually(t, "it is deleted", func() bool { _, err := h.Get("two"); return err != nil })
	h.wantNothing(t)
}

func TestCloseLeavesVMsRunning(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	h.create(t, api.CreateVM{Name: "one", Start: true, Ephemeral: true})
	release, err := h.Hold("one")
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	release() // the connections end with bangerd
	if len(h.fake.Running()) != 1 {
		t.Error("the VM ended with bangerd")
	}
	_, err = h.Create(t.Context(), api.CreateVM{}, progress.Discard)
	wantKind(t, err, api.KindCanceled)
	h.open(t)
	h.wantState(t, "one", api.StateRunning)
}
