package vm

import (
	"context"
	"errors"
	"testing"

	"banger/internal/api"
	"banger/internal/progress"
)

func TestBorrow(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	vm := h.create(t, api.CreateVM{Name: "one"})
	borrow := func() func() error {
		t.Helper()
		giveBack, err := h.borrow(t.Context(), vm.ID, progress.Discard)
		if err != nil {
			t.Fatal(err)
		}
		h.wantState(t, "one", api.StateRunning)
		return giveBack
	}
	give := func(giveBack func() error, want api.State) {
		t.Helper()
		if err := giveBack(); err != nil {
			t.Error(err)
		}
		h.wantState(t, "one", want)
	}
	stop := func() {
		t.Helper()
		if _, err := h.Stop(t.Context(), "one", api.StopVM{}, progress.Discard); err != nil {
			t.Fatal(err)
		}
	}
	// The last of two stops it.
	first, second := borrow(), borrow()
	give(first, api.StateRunning)
	give(second, api.StateStopped)

	// One that was started runs on, whether that was before or since.
	giveBack := borrow()
	if _, err := h.Start(t.Context(), "one", progress.Discard); err != nil {
		t.Fatal(err)
	}
	give(giveBack, api.StateRunning)
	give(borrow(), api.StateRunning)
	stop()

	// So does one with a session.
	giveBack = borrow()
	session, err := h.DialAgent(t.Context(), "one")
	if err != nil {
		t.Fatal(err)
	}
	give(giveBack, api.StateRunning)
	if err := session.Close(); err != nil {
		t.Error(err)
	}
	stop()

	// What is stopped or deleted meanwhile is nobody's any more.
	giveBack = borrow()
	stop()
	give(giveBack, api.StateStopped)
	giveBack = borrow()
	if err := h.Delete(t.Context(), "one", api.DeleteVM{Force: true}); err != nil {
		t.Fatal(err)
	}
	if err := giveBack(); err != nil {
		t.Error(err)
	}
	h.wantNothing(t)
}

func TestBorrowCannotStart(t *testing.T) {
	t.Parallel()
	h := newHarness(t)
	vm := h.create(t, api.CreateVM{Name: "one"})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := h.borrow(ctx, vm.ID, progress.Discard); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	if h.entries()[0].record.Borrowed {
		t.Error("it is borrowed by nobody")
	}
}

// TestKilledWhileBorrowed kills bangerd at every write of a loan: the next one
// stops the VM.
func TestKilledWhileBorrowed(t *testing.T) {
	t.Parallel()
	for n := 0; ; n++ {
		h := newHarness(t)
		vm := h.create(t, api.CreateVM{Name: "one"})
		killed := h.killedAt(t, n, func() {
			if giveBack, err := h.borrow(t.Context(), vm.ID, progress.Discard); err == nil {
				_ = giveBack() // it is killed
			}
		})
		eventually(t, "the VM is stopped", func() bool {
			shown, err := h.Get("one")
			return err == nil && shown.State == api.StateStopped && !h.look(h.entries()[0]).record.Borrowed
		})
		h.wantNothing(t, "one")
		if !killed {
			if n < 4 {
				t.Errorf("a loan has %d writes", n)
			}
			return
		}
	}
}
