// Package sparse writes files that have holes where there are only zeros.
package sparse

import "os"

// block is the least that a hole may have: a block of most file systems.
const block = 4096

var zeros [block]byte

// Writer writes a new file from its begin on. The file's length is for others
// to set: what is a hole at its end is not written.
type Writer struct {
	file   *os.File
	offset int64
}

// NewWriter returns a writer of a file that is empty. It is for one goroutine.
func NewWriter(file *os.File) *Writer { return &Writer{file: file} }

func (w *Writer) Write(p []byte) (int, error) {
	done := 0
	for at := 0; at < len(p); {
		// Up to where blocks begin in the file, then in whole blocks.
		n := min(len(p)-at, block-int((w.offset+int64(at-done))%block))
		if string(p[at:at+n]) == string(zeros[:n]) {
			if err := w.flush(p[done:at]); err != nil {
				return done, err
			}
			w.offset += int64(n)
			done = at + n
		}
		at += n
	}
	if err := w.flush(p[done:]); err != nil {
		return done, err
	}
	return len(p), nil
}

// flush writes what is no hole, and moves on.
func (w *Writer) flush(p []byte) error {
	if len(p) == 0 {
		return nil
	}
	n, err := w.file.WriteAt(p, w.offset)
	w.offset += int64(n)
	return err
}
