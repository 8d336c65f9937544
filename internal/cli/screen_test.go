package cli

import (
	"bytes"
	"strings"
	"testing"
	"unicode"
)

func TestScreen(t *testing.T) {
	t.Parallel()
	tests := map[string]struct{ in, want string }{
		"text":             {"a\tb\r\nüñ €\n", "a\tb\nüñ €\n"},
		"colour":           {"[\x1b[0;32m  OK  \x1b[0m] up\n", "[  OK  ] up\n"},
		"title":            {"a\x1b]0;evil\ab", "ab"},
		"title, other end": {"a\x1b]0;evil\x1b\\b", "ab"},
		"device control":   {"a\x1bP$q q\x1b\\b", "ab"},
		"character set":    {"a\x1b(0b", "ab"},
		"C1":               {"a\u009b31mb", "a31mb"},
		"broken":           {"a\xff\x9bb", "ab"},
		"direction":        {"a\u202eb", "ab"},
		"never ended":      {"a\x1b]hidden\nb\x1b[1\nc", "a\nb\nc"},
		"bell":             {"a\a\b\x7f\x00b", "ab"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, size := range []int{1, 2, 3, len(test.in)} {
				var out bytes.Buffer
				s := &screen{out: &out}
				for rest := test.in; rest != ""; {
					n, err := s.Write([]byte(rest[:min(size, len(rest))]))
					if err != nil {
						t.Fatal(err)
					}
					rest = rest[n:]
				}
				if out.String() != test.want {
					t.Errorf("in pieces of %d: got %q, want %q", size, out.String(), test.want)
				}
			}
		})
	}
}

func FuzzScreen(f *testing.F) {
	f.Add([]byte("a\x1b[1mb\x1b]0;t\ac\n"), []byte("\xe2\x82"))
	f.Fuzz(func(t *testing.T, first, second []byte) {
		var out bytes.Buffer
		s := &screen{out: &out}
		for _, p := range [][]byte{first, second} {
			if n, err := s.Write(p); n != len(p) || err != nil {
				t.Fatalf("got %d, %v", n, err)
			}
		}
		if at := strings.IndexFunc(out.String(), func(r rune) bool { return unicode.IsControl(r) && r != '\n' && r != '\t' }); at >= 0 {
			t.Fatalf("%q has a control character at %d", out.String(), at)
		}
		if len(s.begun) > 3 {
			t.Fatalf("%d bytes are kept", len(s.begun))
		}
	})
}
