package store

import (
	"context"
	"database/sql"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"banger/internal/agent/wire"
	"banger/internal/vmm"
)

func testVM(id, name, address string) VM {
	return VM{
		ID: id, Name: name, Image: "debian", ImageDigest: "sha256:1", Kernel: "k", KernelDigest: "sha256:2",
		VCPU: 2, MemoryMiB: 512, DiskBytes: 8 << 30, Address: address, MAC: "06:" + address, MachineID: "00",
		HostKeys: []wire.HostKey{{Type: "ed25519", Private: "p", Public: "q"}},
		Created:  time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC), Pending: PendingCreate,
	}
}

func openTest(t *testing.T, path string) *Store {
	t.Helper()
	store, err := Open(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := store.Close(); err != nil {
			t.Error(err)
		}
	})
	return store
}

func TestRecordsSurvive(t *testing.T) {
	t.Parallel()
	// A path may hold what means something in a URL.
	path := filepath.Join(t.TempDir(), "a b?c%20#d.db")
	store := openTest(t, path)
	if !store.Fresh() {
		t.Error("a new database is not Fresh")
	}
	ctx := t.Context()
	a, b := testVM("a", "one", "172.16.0.16"), testVM("b", "two", "172.16.0.17")
	for _, vm := range []VM{a, b} {
		if err := store.Insert(ctx, vm); err != nil {
			t.Fatal(err)
		}
	}
	started := time.Date(2026, 2, 3, 4, 5, 6, 0, time.UTC)
	a.Pending, a.Ephemeral, a.LastError, a.Started = PendingNone, true, "why", &started
	a.VMM, a.VMMReason = "qemu", "because"
	a.Handle = &vmm.Handle{Driver: "qemu", PID: 7, StartTime: 8, BootID: "b", RunDir: "/run/x", Accelerator: "tcg"}
	if err := store.Update(ctx, a); err != nil {
		t.Fatal(err)
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	store = openTest(t, path)
	if store.Fresh() {
		t.Error("an existing database is Fresh")
	}
	got, err := store.List(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]VM{a, b}, got); diff != "" {
		t.Errorf("records after opening again (-want +got):\n%s", diff)
	}
	for range 2 { // the second time there is nothing to delete
		if err := store.Delete(ctx, a); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := store.List(ctx); err != nil || len(got) != 1 || got[0].ID != "b" {
		t.Errorf("after Delete: %v, %v", got, err)
	}
}

// TestWaitsForDisk looks at what SQLite was told before each change.
func TestWaitsForDisk(t *testing.T) {
	t.Parallel()
	store := openTest(t, filepath.Join(t.TempDir(), "db"))
	ctx := t.Context()
	lasting, ephemeral := testVM("a", "one", "172.16.0.16"), testVM("b", "two", "172.16.0.17")
	ephemeral.Ephemeral = true
	kept := ephemeral
	kept.Ephemeral = false
	for i, step := range []struct {
		change func() error
		want   int // as "PRAGMA synchronous" has it
	}{
		{func() error { return nil }, 2},
		{func() error { return store.Insert(ctx, ephemeral) }, 1},
		{func() error { return store.Update(ctx, ephemeral) }, 1},
		{func() error { return store.Insert(ctx, lasting) }, 2},
		{func() error { return store.Update(ctx, ephemeral) }, 1},
		{func() error { return store.Update(ctx, kept) }, 2},
		{func() error { return store.Delete(ctx, ephemeral) }, 1},
		{func() error { return store.Delete(ctx, lasting) }, 2},
	} {
		if err := step.change(); err != nil {
			t.Fatal(err)
		}
		var got int
		if err := store.db.QueryRowContext(ctx, "PRAGMA synchronous").Scan(&got); err != nil || got != step.want {
			t.Errorf("step %d: %d, %v, want %d", i, got, err, step.want)
		}
	}
}

// fading is a context that is canceled when it is looked at for the n-th time.
type fading struct {
	context.Context
	cancel func()
	left   atomic.Int32
}

func (f *fading) Done() <-chan struct{} {
	if f.left.Add(-1) == 0 {
		f.cancel()
	}
	return f.Context.Done()
}

// TestCanceledWaitsForDisk cancels changes of ephemeral VMs at all their moments:
// those of others are waited for all the same.
func TestCanceledWaitsForDisk(t *testing.T) {
	t.Parallel()
	store := openTest(t, filepath.Join(t.TempDir(), "db"))
	lasting, ephemeral := testVM("a", "one", "172.16.0.16"), testVM("b", "two", "172.16.0.17")
	ephemeral.Ephemeral = true
	for _, vm := range []VM{lasting, ephemeral} {
		if err := store.Insert(t.Context(), vm); err != nil {
			t.Fatal(err)
		}
	}
	for n := range int32(20) {
		if err := store.Update(t.Context(), lasting); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		fades := &fading{Context: ctx, cancel: cancel}
		fades.left.Store(n)
		_ = store.Update(fades, ephemeral) // whether it was made does not matter
		cancel()
		if err := store.Update(t.Context(), lasting); err != nil {
			t.Fatal(err)
		}
		var got int
		if err := store.db.QueryRowContext(t.Context(), "PRAGMA synchronous").Scan(&got); err != nil || got != 2 {
			t.Errorf("canceled at look %d: %d, %v, want 2", n, got, err)
		}
	}
}

func TestConflicts(t *testing.T) {
	t.Parallel()
	store := openTest(t, filepath.Join(t.TempDir(), "db"))
	ctx := t.Context()
	if err := store.Insert(ctx, testVM("a", "one", "172.16.0.16")); err != nil {
		t.Fatal(err)
	}
	if err := store.Insert(ctx, testVM("b", "one", "172.16.0.17")); !errors.Is(err, ErrNameTaken) {
		t.Errorf("same name: %v", err)
	}
	if err := store.Insert(ctx, testVM("b", "two", "172.16.0.16")); !errors.Is(err, ErrAddressTaken) {
		t.Errorf("same address: %v", err)
	}
	if err := store.Update(ctx, testVM("z", "z", "172.16.0.18")); err == nil {
		t.Error("a record that is not there was updated")
	}
}

func TestNewerDatabaseIsRefused(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "db")
	store := openTest(t, path)
	if _, err := store.db.ExecContext(t.Context(), `PRAGMA user_version = 99`); err != nil {
		t.Fatal(err)
	}
	if err := store.Close(); err != nil {
		t.Fatal(err)
	}
	newer := (*NewerError)(nil)
	if _, err := Open(t.Context(), path); !errors.As(err, &newer) || newer.Have != 99 {
		t.Errorf("Open: %v, want a NewerError", err)
	}
	if _, err := CheckSchema(t.Context(), path); !errors.As(err, &newer) {
		t.Errorf("CheckSchema: %v, want a NewerError", err)
	}
}

func TestCheckSchema(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "db")
	got, err := CheckSchema(t.Context(), path)
	if err != nil || got != (Schema{Version: 0, Want: len(migrations)}) {
		t.Errorf("missing database: %+v, %v", got, err)
	}
	if _, err := os.Stat(path); err == nil {
		t.Error("CheckSchema made the database")
	}
	openTest(t, path)
	got, err = CheckSchema(t.Context(), path)
	if err != nil || got.Version != len(migrations) {
		t.Errorf("database in use: %+v, %v", got, err)
	}
	damaged := filepath.Join(t.TempDir(), "damaged")
	if err := os.WriteFile(damaged, []byte("this is not a database, and it is long enough to be looked at as one ......................................"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := CheckSchema(t.Context(), damaged); err == nil {
		t.Error("a damaged database passed")
	}
	if _, err := Open(t.Context(), damaged); err == nil {
		t.Error("a damaged database was opened")
	}
}

func TestBackup(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "db")
	store := openTest(t, path)
	ctx := t.Context()
	if err := store.Insert(ctx, testVM("a", "one", "172.16.0.16")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path+".v1.tmp", []byte("left by a crash"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := backup(ctx, store.db, path+".v1"); err != nil {
		t.Fatal(err)
	}
	if got, err := openTest(t, path+".v1").List(ctx); err != nil || len(got) != 1 {
		t.Errorf("the backup holds %v, %v", got, err)
	}
}

func TestFullDisk(t *testing.T) {
	t.Parallel()
	store := openTest(t, filepath.Join(t.TempDir(), "db"))
	ctx := t.Context()
	// A limit of the number of pages is what SQLite calls a full disk, too.
	if _, err := store.db.ExecContext(ctx, `PRAGMA max_page_count = 1`); err != nil {
		t.Fatal(err)
	}
	vm := testVM("a", "one", "172.16.0.16")
	vm.LastError = strings.Repeat("x", 1<<20)
	if err := store.Insert(ctx, vm); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("error %v, want ENOSPC", err)
	}
}

// Pragmas that hold for one connection of a pool only are a mistake made elsewhere.
func TestPragmas(t *testing.T) {
	t.Parallel()
	store := openTest(t, filepath.Join(t.TempDir(), "db"))
	for pragma, want := range map[string]string{"journal_mode": "wal", "foreign_keys": "1", "synchronous": "2", "busy_timeout": "5000"} {
		var got string
		if err := store.db.QueryRowContext(t.Context(), `PRAGMA `+pragma).Scan(&got); err != nil || got != want {
			t.Errorf("%s = %q, %v; want %q", pragma, got, err, want)
		}
	}
}

// Every released version can be opened: a migration must not need what an
// older database has not got.
func TestMigrationsFromEveryVersion(t *testing.T) {
	t.Parallel()
	for from := 1; from < len(migrations); from++ {
		path := filepath.Join(t.TempDir(), "db")
		db, err := open(path, "rwc")
		if err != nil {
			t.Fatal(err)
		}
		for i := range from {
			if err := step(t.Context(), db, i); err != nil {
				t.Fatal(err)
			}
		}
		closeDB(t, db)
		openTest(t, path)
		if _, err := os.Stat(path + ".v" + string(rune('0'+from))); err != nil {
			t.Errorf("no backup before the migration from %d: %v", from, err)
		}
	}
	// A failing step changes nothing.
	path := filepath.Join(t.TempDir(), "db")
	store := openTest(t, path)
	if err := step(t.Context(), store.db, 0); err == nil {
		t.Error("the first migration worked twice")
	}
	if got, err := version(t.Context(), store.db); err != nil || got != len(migrations) {
		t.Errorf("version %d, %v after a failed step", got, err)
	}
}

func closeDB(t *testing.T, db *sql.DB) {
	t.Helper()
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestPrivate(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "banger.db")
	// What an older banger made under a umask that lets others read.
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	openTest(t, path)
	files, err := filepath.Glob(path + "*")
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 2 {
		t.Errorf("SQLite keeps nothing beside the database: %q", files)
	}
	for _, file := range files {
		info, err := os.Stat(file)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v", file, info.Mode())
		}
	}
}
