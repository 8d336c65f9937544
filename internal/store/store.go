// Package store keeps the records of VMs in an SQLite database. A record holds
// what is wanted of a VM, and the operation it is in the middle of; what is
// observed, the handle of a running VMM, is kept as a claim that has to be
// verified before use.
package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os"
	"strings"
	"sync"
	"syscall"
	"time"

	"modernc.org/sqlite"
	sqlite3 "modernc.org/sqlite/lib"

	"banger/internal/agent/wire"
	"banger/internal/vmm"
)

// Pending is an operation on a VM that has begun and not ended.
type Pending string

// Operations. After a crash PendingCreate is undone, PendingDelete finished,
// and PendingStart finished where a VMM runs, else undone.
const (
	PendingNone   Pending = ""
	PendingCreate Pending = "create"
	PendingStart  Pending = "start"
	PendingDelete Pending = "delete"
)

// Errors of [Store.Insert].
var (
	ErrNameTaken    = errors.New("the name is taken")
	ErrAddressTaken = errors.New("the address is taken")
)

// VM is the record of one VM.
type VM struct {
	ID, Name string
	// The digests pin what the VM was made with.
	Image, ImageDigest   string
	Kernel, KernelDigest string
	VCPU, MemoryMiB      int
	DiskBytes            int64
	Address, MAC         string
	MachineID            string
	HostKeys             []wire.HostKey
	Ephemeral            bool
	Created              time.Time
	Pending              Pending
	LastError            string
	// FilesSynced says that the guest has what file_sync names: it got that at
	// its first start.
	FilesSynced bool
	// VMM is what the VM is to run on: a driver's name, "auto" for the best
	// that works, or empty for what the configuration says.
	VMM string
	// VMMReason is why the last start was on the VMM that it was.
	VMMReason string
	// Handle is the claim that a VMM runs, Started when it was booted. Both
	// are nil for a VM that does not run.
	Handle  *vmm.Handle
	Started *time.Time
	// Borrowed says that the VM runs, or is about to, only for bangerd to look
	// into it: who finds that after a crash stops it.
	Borrowed bool
}

// Store is an open database. Its methods may be called from any goroutine.
type Store struct {
	db     *sql.DB
	update *sql.Stmt
	fresh  bool

	writing sync.Mutex
	relaxed bool // what is written is not waited for to be on the disk
}

// Open opens the database at path, creates it or brings its schema up to date.
// A copy of the old one is kept beside it, as path.v1, before a migration.
// A database of a newer banger is refused.
//
// The file is made private to the user; what SQLite keeps beside it gets the
// same mode.
func Open(ctx context.Context, path string) (*Store, error) {
	if err := private(path); err != nil {
		return nil, err
	}
	db, err := open(path, "rwc")
	if err != nil {
		return nil, err
	}
	version, err := migrate(ctx, db, path)
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	update, err := db.PrepareContext(ctx, updateRecord())
	if err != nil {
		return nil, errors.Join(fmt.Errorf("cannot open the database %q: %w", path, err), db.Close())
	}
	return &Store{db: db, update: update, fresh: version == 0}, nil
}

// Fresh says whether Open made the database: it was not there before.
func (s *Store) Fresh() bool { return s.fresh }

// Close closes the database.
func (s *Store) Close() error { return errors.Join(s.update.Close(), s.db.Close()) }

// private makes sure that the file at path is there, and nobody else's to read.
func private(path string) error {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("cannot open the database: %w", err)
	}
	if err := errors.Join(file.Chmod(0o600), file.Close()); err != nil {
		return fmt.Errorf("cannot make the database private: %w", err)
	}
	return nil
}

func open(path, mode string) (*sql.DB, error) {
	// Pragmas belong into the DSN: they hold for one connection each.
	query := url.Values{
		"mode":    {mode},
		"_pragma": {"busy_timeout(5000)", "foreign_keys(1)"},
		"_txlock": {"immediate"},
	}
	if mode != "ro" {
		query["_pragma"] = append(query["_pragma"], "journal_mode(WAL)", "synchronous(FULL)")
	}
	dsn := url.URL{Scheme: "file", OmitHost: true, Path: path, RawQuery: query.Encode()}
	db, err := sql.Open("sqlite", dsn.String())
	if err != nil {
		return nil, fmt.Errorf("cannot open the database %q: %w", path, err)
	}
	// One connection is one writer, and readers that see what it wrote.
	db.SetMaxOpenConns(1)
	return db, nil
}

const columns = `id, name, image, image_digest, kernel, kernel_digest, vcpu, memory_mib, disk_bytes, address, mac, machine_id,
	host_keys, ephemeral, created, pending, last_error, handle, started, files_synced, vmm, vmm_reason, borrowed`

// timeFormat is RFC 3339 of one width, so that texts sort as times do.
const timeFormat = "2006-01-02T15:04:05.000000000Z07:00"

// List returns all records, oldest first.
func (s *Store) List(ctx context.Context) (vms []VM, err error) {
	rows, err := s.db.QueryContext(ctx, `SELECT `+columns+` FROM vm ORDER BY created, id`)
	if err != nil {
		return nil, fmt.Errorf("cannot read the VM records: %w", err)
	}
	defer func() { err = errors.Join(err, rows.Close()) }()
	for rows.Next() {
		vm, err := scan(rows)
		if err != nil {
			return nil, fmt.Errorf("cannot read a VM record: %w", err)
		}
		vms = append(vms, vm)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("cannot read the VM records: %w", err)
	}
	return vms, nil
}

func scan(rows *sql.Rows) (VM, error) {
	var vm VM
	var keys, created string
	var handle, started sql.NullString
	err := rows.Scan(&vm.ID, &vm.Name, &vm.Image, &vm.ImageDigest, &vm.Kernel, &vm.KernelDigest, &vm.VCPU, &vm.MemoryMiB, &vm.DiskBytes,
		&vm.Address, &vm.MAC, &vm.MachineID, &keys, &vm.Ephemeral, &created, &vm.Pending, &vm.LastError, &handle, &started, &vm.FilesSynced,
		&vm.VMM, &vm.VMMReason, &vm.Borrowed)
	if err != nil {
		return VM{}, err
	}
	if err := json.Unmarshal([]byte(keys), &vm.HostKeys); err != nil {
		return VM{}, fmt.Errorf("host keys of %q: %w", vm.Name, err)
	}
	if vm.Created, err = time.Parse(time.RFC3339Nano, created); err != nil {
		return VM{}, fmt.Errorf("time of creation of %q: %w", vm.Name, err)
	}
	if handle.Valid {
		if err := json.Unmarshal([]byte(handle.String), &vm.Handle); err != nil {
			return VM{}, fmt.Errorf("handle of %q: %w", vm.Name, err)
		}
	}
	if started.Valid {
		at, err := time.Parse(time.RFC3339Nano, started.String)
		if err != nil {
			return VM{}, fmt.Errorf("time of start of %q: %w", vm.Name, err)
		}
		vm.Started = &at
	}
	return vm, nil
}

func values(vm VM) ([]any, error) {
	keys, err := json.Marshal(vm.HostKeys)
	if err != nil {
		return nil, err
	}
	var handle, started sql.NullString
	if vm.Handle != nil {
		data, err := json.Marshal(vm.Handle)
		if err != nil {
			return nil, err
		}
		handle = sql.NullString{String: string(data), Valid: true}
	}
	if vm.Started != nil {
		started = sql.NullString{String: vm.Started.UTC().Format(timeFormat), Valid: true}
	}
	return []any{
		vm.ID, vm.Name, vm.Image, vm.ImageDigest, vm.Kernel, vm.KernelDigest, vm.VCPU, vm.MemoryMiB, vm.DiskBytes, vm.Address, vm.MAC, vm.MachineID,
		string(keys), vm.Ephemeral, vm.Created.UTC().Format(timeFormat), string(vm.Pending), vm.LastError, handle, started, vm.FilesSynced,
		vm.VMM, vm.VMMReason, vm.Borrowed,
	}, nil
}

// write makes a change of a record. That of an ephemeral VM, which is deleted
// after a crash of the host, is not waited for to be on its disk; a crash of
// bangerd loses neither.
func (s *Store) write(ctx context.Context, vm VM, change func() error) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	if s.relaxed != vm.Ephemeral {
		mode := "FULL"
		if vm.Ephemeral {
			mode = "NORMAL"
		}
		// Canceled, it could have been done all the same.
		if _, err := s.db.ExecContext(context.WithoutCancel(ctx), "PRAGMA synchronous = "+mode); err != nil {
			return err
		}
		s.relaxed = vm.Ephemeral
	}
	return change()
}

// Insert adds a record. The error is [ErrNameTaken] or [ErrAddressTaken] where
// that is the cause.
func (s *Store) Insert(ctx context.Context, vm VM) error {
	args, err := values(vm)
	if err != nil {
		return fmt.Errorf("cannot encode the record of %q: %w", vm.Name, err)
	}
	marks := strings.TrimSuffix(strings.Repeat("?, ", len(args)), ", ")
	err = s.write(ctx, vm, func() error {
		_, err := s.db.ExecContext(ctx, `INSERT INTO vm (`+columns+`) VALUES (`+marks+`)`, args...)
		return err
	})
	if err == nil {
		return nil
	}
	if failed := (*sqlite.Error)(nil); errors.As(err, &failed) && failed.Code() == sqlite3.SQLITE_CONSTRAINT_UNIQUE {
		switch {
		case strings.Contains(failed.Error(), "vm.name"):
			return ErrNameTaken
		case strings.Contains(failed.Error(), "vm.address"):
			return ErrAddressTaken
		}
	}
	return fmt.Errorf("cannot record the VM %q: %w", vm.Name, full(err))
}

// full makes of SQLite's word for a full disk the system's.
func full(err error) error {
	if failed := (*sqlite.Error)(nil); errors.As(err, &failed) && failed.Code()&0xff == sqlite3.SQLITE_FULL {
		return errors.Join(syscall.ENOSPC, err)
	}
	return err
}

// updateRecord is the statement of [Store.Update]. Columns with an index are left
// out: they never change, and would have their pages written all the same.
func updateRecord() string {
	var set []string
	for i, name := range strings.Split(columns, ",") {
		if name = strings.TrimSpace(name); name != "id" && name != "name" && name != "address" {
			set = append(set, fmt.Sprintf("%s = ?%d", name, i+1))
		}
	}
	return `UPDATE vm SET ` + strings.Join(set, ", ") + ` WHERE id = ?1`
}

// Update replaces the record with the same id, whose name and address it has.
func (s *Store) Update(ctx context.Context, vm VM) error {
	args, err := values(vm)
	if err != nil {
		return fmt.Errorf("cannot encode the record of %q: %w", vm.Name, err)
	}
	var result sql.Result
	err = s.write(ctx, vm, func() (err error) {
		result, err = s.update.ExecContext(ctx, args...)
		return err
	})
	if err != nil {
		return fmt.Errorf("cannot record the VM %q: %w", vm.Name, full(err))
	}
	if n, err := result.RowsAffected(); err != nil || n != 1 {
		return errors.Join(fmt.Errorf("cannot record the VM %q: %d records have its id", vm.Name, n), err)
	}
	return nil
}

// Delete removes a record; one that is not there is no error.
func (s *Store) Delete(ctx context.Context, vm VM) error {
	err := s.write(ctx, vm, func() error {
		_, err := s.db.ExecContext(ctx, `DELETE FROM vm WHERE id = ?`, vm.ID)
		return err
	})
	if err != nil {
		return fmt.Errorf("cannot delete the record of VM %s: %w", vm.ID, full(err))
	}
	return nil
}
