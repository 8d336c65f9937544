package workspace

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"banger/internal/atomicfile"
)

// Record is what the host remembers of a workspace that it shipped, so that an
// export can be compared with it whatever the guest says.
type Record struct {
	Root  string `json:"root"`  // on the host
	Guest string `json:"guest"` // directory in the guest
	Base  string `json:"base"`  // tree of what was shipped
	// Format is the object format of the repository: sha1 or sha256.
	Format string `json:"format"`

	// shipped maps each path to its mode and object.
	shipped map[string]state
}

// state is a file as git's tree has it: "100644", "100755" or "120000", and the
// object of its raw content. The zero value is a file that is not there.
type state struct {
	mode, object string
}

// Record makes the record of a shipment that is put at guest.
func (s *Shipment) Record(ctx context.Context, guest string) (*Record, error) {
	g := s.store.git
	g.env = append(slices.Clip(g.env), "GIT_INDEX_FILE="+filepath.Join(s.store.dir, "base-index"))
	out, err := g.output(ctx, nil, "ls-files", "--stage", "-z")
	if err != nil {
		return nil, err
	}
	entries, err := parseStage(out)
	if err != nil {
		return nil, err
	}
	r := &Record{Root: s.Repo.Root, Guest: guest, Base: s.Base, Format: s.Repo.format, shipped: map[string]state{}}
	for _, e := range entries {
		r.shipped[e.path] = state{mode: e.mode, object: e.object}
	}
	return r, nil
}

// RecordFile is where the record of a repository of this name is kept below a
// VM's directory.
func RecordFile(vmDir, name string) string {
	return filepath.Join(vmDir, "workspaces", name)
}

// Save writes the record: a line of JSON, then "mode object path" for each file,
// ended by NUL.
func (r *Record) Save(file string) error {
	var b bytes.Buffer
	if err := json.NewEncoder(&b).Encode(r); err != nil {
		return fmt.Errorf("cannot record the workspace: %w", err)
	}
	for name, s := range r.shipped {
		fmt.Fprintf(&b, "%s %s %s\x00", s.mode, s.object, name)
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return fmt.Errorf("cannot record the workspace: %w", err)
	}
	return atomicfile.Write(file, b.Bytes(), 0o600)
}

// ErrNoRecord says that no workspace was shipped under this name.
var ErrNoRecord = errors.New("no workspace of this name was shipped to this VM")

// Load reads a record.
func Load(file string) (*Record, error) {
	data, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNoRecord
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the record of the workspace: %w", err)
	}
	in := bufio.NewReader(bytes.NewReader(data))
	head, err := in.ReadBytes('\n')
	if err != nil {
		return nil, fmt.Errorf("cannot read the record of the workspace %q: it is cut short", file)
	}
	r := &Record{shipped: map[string]state{}}
	if err := json.Unmarshal(head, r); err != nil {
		return nil, fmt.Errorf("cannot read the record of the workspace %q: %w", file, err)
	}
	for _, line := range split(data[len(head):]) {
		fields := strings.SplitN(line, " ", 3)
		if len(fields) != 3 {
			return nil, fmt.Errorf("cannot read the record of the workspace %q: it is damaged", file)
		}
		r.shipped[fields[2]] = state{mode: fields[0], object: fields[1]}
	}
	return r, nil
}
