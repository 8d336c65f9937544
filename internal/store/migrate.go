package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// migrations bring a database from one version (its user_version) to the next.
// They only ever grow: what is released is never edited.
var migrations = []string{
	`CREATE TABLE vm (
		id            TEXT    NOT NULL PRIMARY KEY,
		name          TEXT    NOT NULL UNIQUE,
		image         TEXT    NOT NULL,
		image_digest  TEXT    NOT NULL,
		kernel        TEXT    NOT NULL,
		kernel_digest TEXT    NOT NULL,
		vcpu          INTEGER NOT NULL CHECK (vcpu > 0),
		memory_mib    INTEGER NOT NULL CHECK (memory_mib > 0),
		disk_bytes    INTEGER NOT NULL CHECK (disk_bytes > 0),
		address       TEXT    NOT NULL UNIQUE,
		mac           TEXT    NOT NULL,
		machine_id    TEXT    NOT NULL,
		host_keys     TEXT    NOT NULL, -- JSON
		ephemeral     INTEGER NOT NULL CHECK (ephemeral IN (0, 1)),
		created       TEXT    NOT NULL, -- RFC 3339, UTC
		pending       TEXT    NOT NULL CHECK (pending IN ('', 'create', 'start', 'delete')),
		last_error    TEXT    NOT NULL,
		handle        TEXT,             -- JSON, a claim
		started       TEXT              -- RFC 3339, UTC
	) STRICT`,
	// VMs that are there have never been waiting for files.
	`ALTER TABLE vm ADD COLUMN files_synced INTEGER NOT NULL DEFAULT 1 CHECK (files_synced IN (0, 1))`,
	`ALTER TABLE vm ADD COLUMN vmm TEXT NOT NULL DEFAULT '';
	ALTER TABLE vm ADD COLUMN vmm_reason TEXT NOT NULL DEFAULT ''`,
	`ALTER TABLE vm ADD COLUMN borrowed INTEGER NOT NULL DEFAULT 0 CHECK (borrowed IN (0, 1))`,
}

// NewerError says that a database was written by a newer banger.
type NewerError struct {
	Path      string
	Have, Max int
}

func (e *NewerError) Error() string {
	return fmt.Sprintf("cannot use the database %q: it has version %d and this banger knows up to %d; install the newer banger again", e.Path, e.Have, e.Max)
}

// migrate brings the schema up to date and returns the version it found.
func migrate(ctx context.Context, db *sql.DB, path string) (int, error) {
	found, err := version(ctx, db)
	if err != nil {
		return 0, fmt.Errorf("cannot read the database %q: %w", path, err)
	}
	if found > len(migrations) {
		return 0, &NewerError{Path: path, Have: found, Max: len(migrations)}
	}
	if found > 0 && found < len(migrations) {
		if err := backup(ctx, db, fmt.Sprintf("%s.v%d", path, found)); err != nil {
			return 0, err
		}
	}
	for i := found; i < len(migrations); i++ {
		if err := step(ctx, db, i); err != nil {
			return 0, fmt.Errorf("cannot bring the database %q to version %d: %w", path, i+1, err)
		}
	}
	return found, nil
}

func step(ctx context.Context, db *sql.DB, i int) (err error) {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, tx.Rollback())
		}
	}()
	if _, err := tx.ExecContext(ctx, migrations[i]); err != nil {
		return err
	}
	// A pragma takes no parameters.
	if _, err := tx.ExecContext(ctx, fmt.Sprintf(`PRAGMA user_version = %d`, i+1)); err != nil {
		return err
	}
	return tx.Commit()
}

// backup writes a copy to path by way of a temporary name.
func backup(ctx context.Context, db *sql.DB, path string) error {
	temporary := path + ".tmp"
	if err := os.Remove(temporary); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot back the database up: %w", err)
	}
	if _, err := db.ExecContext(ctx, `VACUUM INTO ?`, temporary); err != nil {
		return fmt.Errorf("cannot back the database up to %q: %w", path, err)
	}
	if err := private(temporary); err != nil {
		return err
	}
	if err := os.Rename(temporary, path); err != nil {
		return fmt.Errorf("cannot back the database up: %w", err)
	}
	return nil
}

func version(ctx context.Context, db *sql.DB) (int, error) {
	var n int
	err := db.QueryRowContext(ctx, `PRAGMA user_version`).Scan(&n)
	return n, err
}

// Schema is the state of a database's schema.
type Schema struct {
	// Version is what the database has, 0 if there is no database; Want is
	// what this banger uses.
	Version, Want int
}

// CheckSchema looks at the database at path without changing anything: a
// missing one is not made. It fails with a [NewerError] where [Open] would.
func CheckSchema(ctx context.Context, path string) (schema Schema, err error) {
	schema.Want = len(migrations)
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return schema, nil
	} else if err != nil {
		return schema, fmt.Errorf("cannot look at the database: %w", err)
	}
	db, err := open(path, "ro")
	if err != nil {
		return schema, err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	if schema.Version, err = version(ctx, db); err != nil {
		return schema, fmt.Errorf("cannot read the database %q: %w", path, err)
	}
	if schema.Version > schema.Want {
		return schema, &NewerError{Path: path, Have: schema.Version, Max: schema.Want}
	}
	var result string
	if err := db.QueryRowContext(ctx, `PRAGMA quick_check(1)`).Scan(&result); err != nil {
		return schema, fmt.Errorf("cannot check the database %q: %w", path, err)
	}
	if result != "ok" {
		return schema, fmt.Errorf("the database %q is damaged: %s", path, result)
	}
	return schema, nil
}
