package streams

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"

	"banger/internal/progress"
)

func TestUntil(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	r := Until(ctx, strings.NewReader("ab"))
	one := make([]byte, 1)
	if n, err := r.Read(one); n != 1 || err != nil {
		t.Errorf("read %d bytes, %v", n, err)
	}
	cancel()
	if n, err := r.Read(one); n != 0 || !errors.Is(err, context.Canceled) {
		t.Errorf("after the end: read %d bytes, %v", n, err)
	}
}

func TestReadAll(t *testing.T) {
	t.Parallel()
	for limit, want := range map[int64]string{3: "", 2: "it has more than 2 bytes", 0: "it has more than 0 bytes"} {
		got, err := ReadAll(strings.NewReader("abc"), limit)
		if want == "" && (err != nil || string(got) != "abc") || want != "" && (err == nil || err.Error() != want) {
			t.Errorf("at most %d: %q, %v, want the error %q", limit, got, err, want)
		}
	}
	broken := errors.New("broken")
	if _, err := ReadAll(io.MultiReader(strings.NewReader("abc"), iotest.ErrReader(broken)), 3); !errors.Is(err, broken) {
		t.Errorf("of a stream that breaks: %v", err)
	}
}

func TestCounter(t *testing.T) {
	t.Parallel()
	var got []progress.Event
	counter := &Counter{Text: "copying", Total: 20 << 20, Report: func(e progress.Event) { got = append(got, e) }}
	for range 20 {
		if n, err := counter.Write(make([]byte, 1<<20)); n != 1<<20 || err != nil {
			t.Fatalf("wrote %d bytes, %v", n, err)
		}
	}
	want := []progress.Event{
		{Text: "copying", Done: 8 << 20, Total: 20 << 20, Bytes: true},
		{Text: "copying", Done: 16 << 20, Total: 20 << 20, Bytes: true},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("told (-want +got):\n%s", diff)
	}
	if _, err := io.WriteString(counter, "more"); err != nil || len(got) != len(want) {
		t.Errorf("told %d times, %v", len(got), err)
	}
}
