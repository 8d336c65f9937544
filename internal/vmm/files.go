package vmm

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// Accelerators of a [Handle].
const (
	AcceleratorKVM = "kvm"
	AcceleratorTCG = "tcg"
)

// CreateLog makes an empty log that only its user reads; what is written goes
// to its end.
func CreateLog(path string) (*os.File, error) {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot create the log: %w", err)
	}
	return file, nil
}

// RemoveSocket removes a socket that may not be there.
func RemoveSocket(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("cannot remove the socket: %w", err)
	}
	return nil
}

// Tail is the end of a log, on one line. That there is none is no error of its
// own: it goes with one.
func Tail(path string) string {
	const most = 2048
	file, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer file.Close()
	if info, err := file.Stat(); err == nil && info.Size() > most {
		if _, err := file.Seek(-most, io.SeekEnd); err != nil {
			return ""
		}
	}
	data, err := io.ReadAll(io.LimitReader(file, most))
	if err != nil {
		return ""
	}
	return strings.Join(strings.FieldsFunc(string(data), func(r rune) bool { return r == '\n' || r == '\r' }), "; ")
}
