package firecracker_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"banger/internal/vmm/firecracker/fcapi"
	"banger/internal/vmm/firecracker/fctest"
	"banger/internal/vmm/process"
)

// checkTable starts a Firecracker and makes the calls of the table to it.
func checkTable(t *testing.T, binary string) {
	t.Helper()
	spec := newSpec(t)
	socket := filepath.Join(spec.RunDir, "api")
	for _, path := range []string{spec.VMMLog, spec.ConsoleLog} {
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	console, err := os.OpenFile(spec.ConsoleLog, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = console.Close() }()
	child, err := process.Start(process.Command{
		Path: binary, Args: []string{"--api-sock", socket, "--id", "table", "--log-path", spec.VMMLog},
		Env: []string{"PATH=/usr/bin:/bin"}, Log: console,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute)
		defer cancel()
		if err := errors.Join(child.Kill(ctx), child.Close()); err != nil {
			t.Error(err)
		}
	}()
	client := fcapi.New(socket)
	defer client.Close()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(5 * time.Millisecond) {
		if _, err := client.Instance(t.Context()); err == nil {
			break
		} else if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	fctest.Check(t, socket, fctest.Early(spec.Kernel, spec.Disks[1].Path))
	if instance, err := client.Instance(t.Context()); err != nil || instance.State != "Running" || instance.ID != "table" {
		t.Errorf("after the start: %+v, %v", instance, err)
	}
	fctest.Check(t, socket, fctest.Late(spec.Kernel, spec.Disks[1].Path))
}

func TestTableOnFake(t *testing.T) {
	t.Parallel()
	checkTable(t, fake)
}

// TestRealTable holds the fake to the real one: both answer the table alike.
func TestRealTable(t *testing.T) {
	binary, _ := realOne(t)
	checkTable(t, binary)
}
