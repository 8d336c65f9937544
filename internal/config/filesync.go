package config

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"

	"banger/internal/tomlfile"
)

// FileSync is one file or directory of the host that a new VM gets a copy of.
type FileSync struct {
	Host  string // absolute
	Guest string // absolute and clean, below /root
	// Mode is what a file gets. A directory keeps the modes it has.
	Mode fs.FileMode
}

// GuestHome is where the work disk is in a guest: what is synced goes there.
const GuestHome = "/root"

// AuthorizedKeys is banger's own in every guest. It is never synced.
const AuthorizedKeys = GuestHome + "/.ssh/authorized_keys"

const defaultFileMode fs.FileMode = 0o600

// fileSync is an entry of file_sync as written. Mode is text, or a number.
type fileSync struct {
	Host  *string `toml:"host"`
	Guest *string `toml:"guest"`
	Mode  any     `toml:"mode"`
}

// fileSyncs checks all entries, which are from the file data at path.
func fileSyncs(entries []fileSync, data []byte, path, home string) ([]FileSync, error) {
	var syncs []FileSync
	for i, entry := range entries {
		sync := FileSync{Mode: defaultFileMode}
		for _, key := range []struct {
			name string
			set  func() error
		}{
			{"host", func() error { return setHost(&sync.Host, entry.Host, home) }},
			{"guest", func() error { return setGuest(&sync.Guest, entry.Guest) }},
			{"mode", func() error { return setMode(&sync.Mode, entry.Mode) }},
		} {
			if err := key.set(); err != nil {
				which := "entry " + strconv.Itoa(i+1)
				if entry.Host != nil {
					which += fmt.Sprintf(" (%q)", *entry.Host)
				}
				return nil, &Error{Path: path, Line: tomlfile.EntryLine(data, "file_sync", i, key.name), Key: "file_sync." + key.name, Reason: which + ": " + err.Error()}
			}
		}
		syncs = append(syncs, sync)
	}
	return syncs, nil
}

func setHost(to, from *string, home string) error {
	if from == nil {
		return errors.New("it is missing")
	}
	return setPath(to, from, home)
}

func setGuest(to, from *string) error {
	if from == nil {
		return errors.New("it is missing")
	}
	guest := *from
	if rest, ok := strings.CutPrefix(guest, "~/"); ok {
		guest = GuestHome + "/" + rest
	}
	// What ".." leads to is the guest's choice.
	if strings.ContainsAny(guest, "\n\x00") || slices.Contains(strings.Split(guest, "/"), "..") {
		return fmt.Errorf("%q is not a plain path", *from)
	}
	guest = path.Clean(guest)
	if !strings.HasPrefix(guest, GuestHome+"/") {
		return fmt.Errorf("%q is not a path below ~/ or %s/", *from, GuestHome)
	}
	if guest == AuthorizedKeys {
		return fmt.Errorf("%q is written by banger; to let others in, add keys to it in the guest", *from)
	}
	*to = guest
	return nil
}

// setMode takes "0600" and 0o600. A bare 600 would be another number.
func setMode(to *fs.FileMode, from any) error {
	var value uint64
	switch mode := from.(type) {
	case nil:
		return nil
	case string:
		var err error
		if value, err = strconv.ParseUint(strings.TrimPrefix(mode, "0o"), 8, 32); err != nil {
			return fmt.Errorf(`%q is not a mode such as "0600"`, mode)
		}
	case int64:
		if mode < 0 {
			return errors.New(`it must be a mode such as "0600"`)
		}
		value = uint64(mode)
	default:
		return errors.New(`it must be a mode such as "0600"`)
	}
	if value > uint64(fs.ModePerm) {
		return errors.New(`it must be a mode of permissions only, at most "0777"`)
	}
	*to = fs.FileMode(value)
	return nil
}
