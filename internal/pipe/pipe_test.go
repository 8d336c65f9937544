package pipe

import (
	"bufio"
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

func TestErrors(t *testing.T) {
	t.Parallel()
	broken := errors.New("it is broken")
	for name, test := range map[string]struct {
		in     io.Reader
		script string
		out    string
		want   string
	}{
		"none":         {strings.NewReader("in"), "cat", "in", ""},
		"no input":     {nil, "cat; echo out", "out\n", ""},
		"silent":       {nil, "echo out; exit 3", "out\n", "sh: exit status 3"},
		"complains":    {nil, "echo first >&2; echo second >&2; exit 3", "", "first"},
		"warns":        {nil, "echo first >&2; echo out", "out\n", ""},
		"of its input": {io.MultiReader(strings.NewReader("in"), iotest.ErrReader(broken)), "cat; exit 3", "in", broken.Error()},
		"endless":      {nil, "head -c 1000000 /dev/zero | tr '\\0' x >&2; exit 3", "", strings.Repeat("x", maxLine)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, err := Open(t.Context(), test.in, "sh", "-c", test.script)
			if err != nil {
				t.Fatal(err)
			}
			out, err := io.ReadAll(r)
			if string(out) != test.out {
				t.Errorf("read %q, want %q", out, test.out)
			}
			if err == nil && test.want != "" || err != nil && err.Error() != test.want {
				t.Errorf("error %.99v, want %.99q", err, test.want)
			}
			if err := r.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	if r, err := Open(t.Context(), nil, "no-such-program"); err == nil {
		t.Errorf("no program: %v", r.Close())
	}
}

// What the program has started ends with it: as long as it holds stderr, Close
// waits.
func TestEnds(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"closed", "canceled"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			began := time.Now()
			r, err := Open(ctx, nil, "sh", "-c", "sleep 300 & echo started; wait")
			if err != nil {
				t.Fatal(err)
			}
			if _, err := bufio.NewReader(r).ReadString('\n'); err != nil {
				t.Fatal(err)
			}
			if name == "canceled" {
				cancel()
				if _, err := io.ReadAll(r); !errors.Is(err, context.Canceled) {
					t.Errorf("error %v", err)
				}
			}
			if err := r.Close(); err != nil {
				t.Error(err)
			}
			if took := time.Since(began); took > 2*time.Minute {
				t.Errorf("ended after %v", took)
			}
		})
	}
}
