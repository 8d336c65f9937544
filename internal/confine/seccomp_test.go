package confine

import (
	"encoding/binary"
	"testing"

	"golang.org/x/sys/unix"
)

// verdict runs a filter as the kernel does.
func verdict(t *testing.T, program []unix.SockFilter, call, argument uint32) uint32 {
	t.Helper()
	data := make([]byte, 64)
	binary.NativeEndian.PutUint32(data[offsetCall:], call)
	binary.NativeEndian.PutUint32(data[offsetArch:], auditArch)
	binary.NativeEndian.PutUint32(data[offsetArgs:], argument)
	var loaded uint32
	for at := 0; at < len(program); at++ {
		i := program[at]
		jump := func(is bool) {
			if is {
				at += int(i.Jt)
			} else {
				at += int(i.Jf)
			}
		}
		switch i.Code {
		case unix.BPF_RET | unix.BPF_K:
			return i.K
		case unix.BPF_LD | unix.BPF_W | unix.BPF_ABS:
			loaded = binary.NativeEndian.Uint32(data[i.K:])
		case unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K:
			jump(loaded == i.K)
		case unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K:
			jump(loaded >= i.K)
		case unix.BPF_JMP | unix.BPF_JA:
			at += int(i.K)
		default:
			t.Fatalf("an instruction of another kind: %+v", i)
		}
	}
	t.Fatal("no verdict")
	return 0
}

// TestSearch has filters of all sizes, with every call before, after and between
// those that they name.
func TestSearch(t *testing.T) {
	t.Parallel()
	if auditArch == 0 {
		t.Skip("NOT TESTED: there is no filter on this architecture")
	}
	for size := range uint32(150) {
		filter := NewFilter()
		for n := size; n > 0; n-- { // in any order
			if n%7 == 0 {
				filter.On(3*n, Arg(0), If(n, 0, 1), Allow, Fail(unix.Errno(n)))
			} else {
				filter.On(3*n, Fail(unix.Errno(n)))
			}
		}
		program, err := filter.program(Deny)
		if err != nil {
			t.Fatal(err)
		}
		for call := range 3*size + 5 {
			want := Deny.K
			if n := call / 3; call%3 == 0 && n > 0 && n <= size {
				want = Fail(unix.Errno(n)).K
				if got := verdict(t, program, call, n); n%7 == 0 && got != Allow.K {
					t.Fatalf("of %d, call %d with %d: %#x", size, call, n, got)
				}
			}
			if got := verdict(t, program, call, 0); got != want {
				t.Fatalf("of %d, call %d: %#x, want %#x", size, call, got, want)
			}
		}
		if got := verdict(t, program, otherABI+3, 0); got != Deny.K {
			t.Fatalf("a call of another ABI: %#x", got)
		}
	}
}

// TestTwoRules has a filter in which a search would find either.
func TestTwoRules(t *testing.T) {
	t.Parallel()
	filter := NewFilter()
	for _, call := range []uint32{3, 1, 2, 3} {
		filter.On(call, Allow)
	}
	if _, err := filter.program(Deny); err == nil {
		t.Error("two rules for a call are taken")
	}
}
