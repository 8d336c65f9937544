package kvm

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/google/go-cmp/cmp"

	"banger/internal/vmm/process"
)

func TestLayout(t *testing.T) {
	t.Parallel()
	// The sizes that the requests carry in bits 16 to 29.
	for _, test := range []struct {
		name    string
		request uintptr
		size    uintptr
	}{
		{"regs", kvmGetRegs, unsafe.Sizeof(regs{})},
		{"sregs", kvmGetSregs, unsafe.Sizeof(sregs{})},
		{"memory region", kvmSetUserMemoryRegion, unsafe.Sizeof(memoryRegion{})},
	} {
		if want := test.request >> 16 & 0x3fff; test.size != want {
			t.Errorf("%s has %d bytes, the kernel wants %d", test.name, test.size, want)
		}
	}
	if n := unsafe.Sizeof(msrEntry{}); n != 16 {
		t.Errorf("an MSR entry has %d bytes", n)
	}
}

func TestDeviceThatDoesNotOpen(t *testing.T) {
	t.Parallel()
	cache := t.TempDir()
	missing := filepath.Join(t.TempDir(), "kvm")
	verdict := Probe(t.Context(), missing, cache)
	if verdict.Working || !strings.Contains(verdict.Reason, "does not exist") || verdict.Hint == "" {
		t.Errorf("missing device: %+v", verdict)
	}
	closed := filepath.Join(t.TempDir(), "kvm")
	if err := os.WriteFile(closed, nil, 0); err != nil {
		t.Fatal(err)
	}
	if os.Getuid() != 0 { // root may open anything
		verdict = Probe(t.Context(), closed, cache)
		if verdict.Working || !strings.Contains(verdict.Hint, "kvm group") {
			t.Errorf("forbidden device: %+v", verdict)
		}
	}
	if entries, err := os.ReadDir(cache); err != nil || len(entries) > 0 {
		t.Errorf("a verdict that the user can change was kept: %v, %v", entries, err)
	}
}

func TestNotKVM(t *testing.T) {
	t.Parallel()
	verdict := Probe(t.Context(), "/dev/null", t.TempDir())
	if verdict.Working || !strings.Contains(verdict.Reason, "does not run a guest: KVM_GET_API_VERSION") {
		t.Errorf("verdict on /dev/null: %+v", verdict)
	}
}

func TestCache(t *testing.T) {
	t.Parallel()
	bootID, err := process.BootID()
	if err != nil {
		t.Fatal(err)
	}
	want := Verdict{Working: true, Speed: 42}
	for _, test := range []struct {
		name string
		keep record
		used bool
	}{
		{"of this boot", record{recordVersion, bootID, "/dev/null", want}, true},
		{"of another boot", record{recordVersion, "another", "/dev/null", want}, false},
		{"of another device", record{recordVersion, bootID, "/dev/zero", want}, false},
		{"of another version", record{recordVersion + 1, bootID, "/dev/null", want}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(t.TempDir(), "cache")
			if err := keep(filepath.Join(dir, "kvm.json"), test.keep); err != nil {
				t.Fatal(err)
			}
			got := Probe(t.Context(), "/dev/null", dir)
			if used := cmp.Equal(got, want); used != test.used {
				t.Errorf("verdict %+v, cache used: %v", got, used)
			}
			// Whatever was found is there for the next time.
			if again := Probe(t.Context(), "/dev/null", dir); !cmp.Equal(again, got) {
				t.Errorf("second verdict %+v, first %+v", again, got)
			}
		})
	}
}

// A host that is too busy to run the guest in time is asked again.
func TestNotFinal(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	want := Verdict{Reason: "it hangs"}
	hung := func(context.Context, string) (Verdict, bool) { return want, false }
	if got := probe(t.Context(), "/dev/null", dir, hung); got != want {
		t.Errorf("verdict %+v", got)
	}
	want = Verdict{Working: true, Speed: 42}
	works := func(context.Context, string) (Verdict, bool) { return want, true }
	if got := probe(t.Context(), "/dev/null", dir, works); got != want {
		t.Errorf("verdict %+v: one that was not final was kept", got)
	}
	if got := probe(t.Context(), "/dev/null", dir, hung); got != want {
		t.Errorf("verdict %+v: the final one was not kept", got)
	}
}

func TestJudge(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name string
		p    progress
		want string // in the reason; empty: working
	}{
		{"hardware", progress{chunks * chunkInstructions, time.Millisecond, nil}, ""},
		{"within an emulated machine", progress{chunks * chunkInstructions, 20 * time.Millisecond, nil}, ""},
		{"emulated", progress{2 * chunkInstructions, 500 * time.Millisecond, nil}, "some 250 times slower"},
		{"hardly at all", progress{1000, 0, nil}, "1000 instructions of a guest took over 1.2s"},
		{"fails", progress{0, 0, os.ErrInvalid}, "does not run a guest: invalid argument"},
	} {
		verdict := judge("/dev/kvm", test.p)
		if verdict.Working != (test.want == "") || !strings.Contains(verdict.Reason, test.want) {
			t.Errorf("%s: %+v", test.name, verdict)
		}
	}
}

// TestThisHost cannot know the verdict, but there must be one, and in time.
func TestThisHost(t *testing.T) {
	t.Parallel()
	if _, ok := unopened(Device); !ok {
		t.Skipf("no %s here", Device)
	}
	// Far more than the two seconds promised: this host may be busy.
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	start := time.Now()
	verdict := Probe(ctx, Device, t.TempDir())
	t.Logf("after %v: %+v", time.Since(start), verdict)
	if verdict.Working == (verdict.Reason != "") || ctx.Err() != nil {
		t.Errorf("verdict %+v after %v", verdict, time.Since(start))
	}
}
