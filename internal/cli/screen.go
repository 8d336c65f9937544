package cli

import (
	"io"
	"slices"
	"unicode"
	"unicode/utf8"
)

// onScreen returns where to write what a guest chose: a terminal gets its text
// only, since control sequences could change the terminal's state, retitle it or
// make it answer as if the user typed; a file or a pipe gets every byte.
func (a *app) onScreen(out io.Writer) io.Writer {
	if isTerminal(out) {
		return &screen{out: out}
	}
	return out
}

// screen drops control characters and sequences, but for newlines and tabs.
// A line ends every sequence, so that none can hide what follows.
type screen struct {
	out   io.Writer
	state escape
	// begun is the beginning of a character whose rest is still to come.
	begun []byte
}

// escape is where in a control sequence the text is.
type escape int

const (
	escapeNone   escape = iota
	escapeBegun         // after ESC
	escapeCSI           // parameters, up to a final character
	escapeString        // a title or the like, up to BEL or ESC \
)

// Write never keeps more than the beginning of one character.
func (s *screen) Write(p []byte) (int, error) {
	in := slices.Concat(s.begun, p)
	shown := make([]byte, 0, len(in))
	for len(in) > 0 && utf8.FullRune(in) {
		r, n := utf8.DecodeRune(in)
		if s.shows(r) {
			shown = append(shown, in[:n]...)
		}
		in = in[n:]
	}
	s.begun = append([]byte(nil), in...)
	if _, err := s.out.Write(shown); err != nil {
		return 0, err
	}
	return len(p), nil
}

// shows takes the next character and says whether it is text.
func (s *screen) shows(r rune) bool {
	switch r {
	case '\n':
		s.state = escapeNone
		return true
	case '\x1b':
		s.state = escapeBegun
		return false
	}
	switch s.state {
	case escapeNone:
	case escapeBegun:
		switch {
		case r == '[':
			s.state = escapeCSI
		case r == ']' || r == 'P' || r == 'X' || r == '^' || r == '_':
			s.state = escapeString
		case r < 0x20 || r > 0x2f: // else more of it follows
			s.state = escapeNone
		}
		return false
	case escapeCSI:
		if r >= 0x40 {
			s.state = escapeNone
		}
		return false
	case escapeString:
		if r == '\a' {
			s.state = escapeNone
		}
		return false
	}
	return r == '\t' || (unicode.IsPrint(r) && r != utf8.RuneError)
}
