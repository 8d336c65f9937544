package vm

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"
)

const (
	// maxConsole bounds what a guest can put on the host's disk by talking
	// to its console, in bytes; consoleInterval is between looks at it.
	maxConsole      = 16 << 20
	consoleInterval = 10 * time.Second
)

// boundLog empties a log that has more than limit bytes. VMMs write to the
// end of it, wherever that is.
func boundLog(path string, limit int64) error {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) || (err == nil && info.Size() <= limit) {
		return nil
	}
	if err == nil {
		err = os.Truncate(path, 0)
	}
	if err != nil {
		return fmt.Errorf("cannot bound a log: %w", err)
	}
	return nil
}
