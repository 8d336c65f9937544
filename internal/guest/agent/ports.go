package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"time"
)

// portsInterval is how often a watched guest is looked at.
const portsInterval = 300 * time.Millisecond

func (s *Server) ports(w http.ResponseWriter, r *http.Request) error {
	if r.URL.Query().Get("watch") != "" {
		return watchPorts(r.Context(), w, "/proc", portsInterval)
	}
	ports, err := listening("/proc")
	if err != nil {
		return err
	}
	return answer(w, ports)
}

// watchPorts writes a line with what listens whenever that has changed.
func watchPorts(ctx context.Context, w http.ResponseWriter, proc string, interval time.Duration) error {
	w.Header().Set("Content-Type", "application/x-ndjson")
	tick := time.NewTicker(interval)
	defer tick.Stop()
	var seen, said []byte
	for first := true; ; first = false {
		now, err := listenTable(proc, nil)
		if err != nil {
			return broken{err}
		}
		if first || !bytes.Equal(now, seen) {
			seen = now
			ports, err := listening(proc)
			if err != nil {
				return broken{err}
			}
			line, err := json.Marshal(ports)
			if err != nil {
				return broken{fmt.Errorf("cannot encode the answer: %w", err)}
			}
			if first || !bytes.Equal(line, said) {
				said = line
				if _, err := w.Write(append(line, '\n')); err != nil {
					return broken{err}
				}
				if err := http.NewResponseController(w).Flush(); err != nil {
					return broken{err}
				}
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// listenTable returns what tells whether the listening sockets have changed,
// appended to buf. The kernel lists them before all connections, so that only
// the begin of its tables has to be made and read.
func listenTable(proc string, buf []byte) ([]byte, error) {
	for _, name := range []string{"tcp", "tcp6"} {
		var err error
		if buf, err = appendListeners(buf, filepath.Join(proc, "net", name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("cannot watch listening ports: %w", err)
		}
		buf = append(buf, '\n')
	}
	return buf, nil
}

func appendListeners(buf []byte, path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return buf, err
	}
	defer file.Close()
	chunk := make([]byte, os.Getpagesize())
	var rest []byte // the begin of a line whose end was not read yet
	for header := true; ; {
		n, err := file.Read(chunk)
		rest = append(rest, chunk[:n]...)
		for {
			line, after, whole := bytes.Cut(rest, []byte("\n"))
			if !whole {
				break
			}
			rest = after
			if header {
				header = false
				continue
			}
			// "sl local_address rem_address st ... inode": the counters between
			// them change all the time.
			fields := bytes.Fields(line)
			if len(fields) < 10 || string(fields[3]) != "0A" {
				return buf, nil
			}
			buf = append(append(append(append(buf, fields[1]...), ' '), fields[9]...), '\n')
		}
		if errors.Is(err, io.EOF) {
			return buf, nil
		}
		if err != nil {
			return buf, err
		}
	}
}
