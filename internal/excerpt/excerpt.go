// Package excerpt bounds what is kept of a program's output: its beginning, where
// the cause of a failure mostly is, and its end.
package excerpt

import "strings"

// defaultLimit is the limit of the zero value, in bytes.
const defaultLimit = 16 << 10

// gap stands between the beginning and the end where something was left out.
const gap = "\n[...]\n"

// Writer keeps the beginning and the end of what is written to it, however much
// that is. The zero value is ready for use, by one goroutine at a time.
type Writer struct {
	// Limit is how much is kept of the beginning, and as much of the end, in
	// bytes; zero is 16 KiB.
	Limit int

	first, last []byte
	cut         bool // something between them was left out
}

// Write takes all of p, and never fails.
func (w *Writer) Write(p []byte) (int, error) {
	limit, n := w.limit(), len(p)
	fits := min(n, limit-len(w.first))
	w.first, p = append(w.first, p[:fits]...), p[fits:]
	if over := len(p) - limit; over > 0 {
		p, w.last, w.cut = p[over:], w.last[:0], true
	}
	// Twice the limit, so that bytes are not moved at each write.
	if over := len(w.last) + len(p) - limit; over > limit {
		w.last, w.cut = append(w.last[:0], w.last[over:]...), true
	}
	w.last = append(w.last, p...)
	return n, nil
}

// String is what was written, or its beginning and its end.
func (w *Writer) String() string {
	if over := len(w.last) - w.limit(); over > 0 {
		return string(w.first) + gap + string(w.last[over:])
	}
	if w.cut {
		return string(w.first) + gap + string(w.last)
	}
	return string(w.first) + string(w.last)
}

// FirstLine is the first line that says something, where the cause of a failure
// mostly is; empty if there is none.
func (w *Writer) FirstLine() string {
	first, _, _ := strings.Cut(strings.TrimSpace(w.String()), "\n")
	return strings.TrimSpace(first)
}

// LastLine is the last line that says something.
func (w *Writer) LastLine() string {
	said := strings.TrimSpace(w.String())
	return strings.TrimSpace(said[strings.LastIndexByte(said, '\n')+1:])
}

func (w *Writer) limit() int {
	if w.Limit == 0 {
		return defaultLimit
	}
	return w.Limit
}
