package excerpt

import (
	"bytes"
	"io"
	"strings"
	"testing"
)

func TestWriter(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		writes []string
		want   string
	}{
		"nothing":            {nil, ""},
		"less":               {[]string{"ab", "c"}, "abc"},
		"as much":            {[]string{"abcd", "efgh"}, "abcdefgh"},
		"as much, at once":   {[]string{"abcdefgh"}, "abcdefgh"},
		"one more":           {[]string{"abcd", "efghi"}, "abcd" + gap + "fghi"},
		"one more, at once":  {[]string{"abcdefghi"}, "abcd" + gap + "fghi"},
		"byte by byte":       {strings.Split("abcdefghijklmnop", ""), "abcd" + gap + "mnop"},
		"in threes":          {[]string{"abc", "def", "ghi", "jkl", "mno", "pqr"}, "abcd" + gap + "opqr"},
		"long, then short":   {[]string{"abcdefghijklm", "n"}, "abcd" + gap + "klmn"},
		"short, then long":   {[]string{"a", "bcdefghijklmn"}, "abcd" + gap + "klmn"},
		"long, then nothing": {[]string{"abcdefghijklmn", ""}, "abcd" + gap + "klmn"},
	} {
		w := &Writer{Limit: 4}
		for _, text := range test.writes {
			if n, err := io.WriteString(w, text); n != len(text) || err != nil {
				t.Errorf("%s: wrote %d of %d bytes, %v", name, n, len(text), err)
			}
		}
		if got := w.String(); got != test.want {
			t.Errorf("%s: got %q, want %q", name, got, test.want)
		}
	}
}

func TestLines(t *testing.T) {
	t.Parallel()
	for said, want := range map[string][2]string{
		"": {}, " \n\n": {}, "one": {"one", "one"}, "\n  one\r\ntwo\n three \n\n": {"one", "three"},
	} {
		w := new(Writer)
		if _, err := io.WriteString(w, said); err != nil {
			t.Fatal(err)
		}
		if got := [2]string{w.FirstLine(), w.LastLine()}; got != want {
			t.Errorf("of %q: %q, want %q", said, got, want)
		}
	}
}

// TestWriterIsBounded writes much more than is kept, in pieces of several sizes.
func TestWriterIsBounded(t *testing.T) {
	t.Parallel()
	for _, size := range []int{1, 100, defaultLimit - 1, defaultLimit, 10 * defaultLimit} {
		w := new(Writer)
		piece := bytes.Repeat([]byte("x"), size)
		for written := 0; written < 20*defaultLimit; written += size {
			if _, err := w.Write(piece); err != nil {
				t.Fatal(err)
			}
		}
		if held := cap(w.first) + cap(w.last); held > 6*defaultLimit {
			t.Errorf("in pieces of %d bytes: %d bytes are held", size, held)
		}
		if got := len(w.String()); got != 2*defaultLimit+len(gap) {
			t.Errorf("in pieces of %d bytes: %d bytes are kept", size, got)
		}
	}
}
