package host_test

import (
	"os"
	"path/filepath"
	"testing"

	"banger/internal/doctor"
	"banger/internal/doctor/checks"
	"banger/internal/doctor/host"
	"banger/internal/paths"
	"banger/internal/vmm/launch/launcher"
)

// self is this test binary, which is the launcher as well.
var self string

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == launcher.Subcommand {
		if err := launcher.Main(); err != nil {
			os.Exit(1) //nolint:forbidigo // it is a program
		}
		return
	}
	var err error
	if self, err = os.Executable(); err != nil {
		panic(err)
	}
	os.Exit(m.Run()) //nolint:forbidigo // nothing to clean up
}

func testDirs(t *testing.T) paths.Dirs {
	t.Helper()
	root, err := os.MkdirTemp("/tmp", "doctor-") //nolint:usetesting // its path would be too long for sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(root); err != nil {
			t.Error(err)
		}
	})
	return paths.Dirs{
		Config: filepath.Join(root, "config"), State: filepath.Join(root, "state"), Cache: filepath.Join(root, "cache"),
		Runtime: filepath.Join(root, "run"), Home: root,
	}
}

func row(t *testing.T, rows []doctor.Row, check string) doctor.Row {
	t.Helper()
	for _, row := range rows {
		if row.Check == check {
			return row
		}
	}
	t.Fatalf("no row %q in %+v", check, rows)
	return doctor.Row{}
}

// TestThisMachine holds what is the same on every machine.
func TestThisMachine(t *testing.T) {
	t.Parallel()
	dirs := testDirs(t)
	deps, err := host.Deps(dirs, self)
	if err != nil {
		t.Fatal(err)
	}
	rows := checks.Run(t.Context(), deps)
	for check, status := range map[string]doctor.Status{
		"configuration": doctor.Pass, "runtime directory": doctor.Pass, "database": doctor.Pass, "ssh key": doctor.Pass, "VM defaults": doctor.Pass,
		"default image": doctor.Warn, "default kernel": doctor.Warn, "ssh shortcut": doctor.Warn,
	} {
		if got := row(t, rows, check); got.Status != status {
			t.Errorf("%+v, want %s", got, status)
		}
	}
	if _, err := os.Stat(dirs.State); err == nil {
		t.Error("the state directory was made")
	}
}

func TestBadConfiguration(t *testing.T) {
	t.Parallel()
	dirs := testDirs(t)
	if err := os.MkdirAll(dirs.Config, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(dirs.ConfigFile(), []byte("nonsense = 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	deps, err := host.Deps(dirs, self)
	if err != nil {
		t.Fatal(err)
	}
	rows := checks.Run(t.Context(), deps)
	if got := row(t, rows, "configuration"); got.Status != doctor.Fail {
		t.Errorf("%+v", got)
	}
	if got := row(t, rows, "default image"); got.Status != doctor.Warn {
		t.Errorf("the other checks do not go by the defaults: %+v", got)
	}
}
