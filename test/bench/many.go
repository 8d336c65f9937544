package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"banger/internal/store"
	"banger/test/base"
)

const manyRecords = 1000

// measureMany looks at bangerd with many records: they are written into its
// database, as the address plan has no room for so many VMs.
func measureMany(ctx context.Context, in *instance, r *report) error {
	if _, err := in.output(ctx, "daemon", "stop"); err != nil {
		return err
	}
	path := filepath.Join(base.State(in.stateHome), "banger.db")
	if err := insertMany(ctx, path); err != nil {
		return err
	}
	out, err := in.output(ctx, "vm", "list", "--json")
	if err != nil {
		return err
	}
	if n := strings.Count(out, `"many-`); n != manyRecords {
		return fmt.Errorf("vm list shows %d of %d records", n, manyRecords)
	}
	all, err := in.timed(ctx, 50, "vm", "list")
	if err != nil {
		return err
	}
	r.add(fmt.Sprintf("`vm list` with %d records, p50 of 50", manyRecords), milliseconds, all.p50().Seconds()*1000, 20)
	// Its idle memory is that of an ordinary user, with no VM.
	if _, err := in.output(ctx, "daemon", "stop"); err != nil {
		return err
	}
	if err := os.Remove(path); err != nil {
		return err
	}
	if _, err := in.output(ctx, "vm", "list"); err != nil {
		return err
	}
	pid, err := in.number(ctx, ".daemon.pid", "daemon", "status", "--json")
	if err != nil {
		return err
	}
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(3 * time.Second): // it settles
	}
	resident, err := residentKiB(int(pid))
	if err != nil {
		return err
	}
	r.add("resident memory of an idle bangerd", mebibytes, float64(resident)/1024, 40)
	return nil
}

func insertMany(ctx context.Context, path string) (err error) {
	db, err := store.Open(ctx, path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	for i := range manyRecords {
		address := fmt.Sprintf("172.%d.%d.%d", 17+i/200/200, i/200, 1+i%200)
		err := db.Insert(ctx, store.VM{
			ID: fmt.Sprintf("%012x", i+1), Name: fmt.Sprintf("many-%d", i), Image: "none", ImageDigest: "sha256:0", Kernel: "none", KernelDigest: "sha256:0",
			VCPU: 1, MemoryMiB: 512, DiskBytes: 1 << 30, Address: address, MAC: fmt.Sprintf("06:00:00:00:%02x:%02x", i/256, i%256),
			MachineID: fmt.Sprintf("%032x", i+1), Created: time.Now(),
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func residentKiB(pid int) (int, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	var resident int
	for line := range strings.Lines(string(data)) {
		if _, err := fmt.Sscanf(line, "VmRSS: %d kB", &resident); err == nil {
			return resident, nil
		}
	}
	return 0, errors.New("the kernel does not tell how much memory bangerd has")
}
