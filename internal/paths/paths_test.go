package paths

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func under(root string) Dirs {
	return Dirs{State: filepath.Join(root, "state"), Runtime: filepath.Join(root, "run")}
}

func TestMakeIsPrivate(t *testing.T) {
	t.Parallel()
	dirs := under(t.TempDir())
	// It is banger's own, made by whatever with a umask that let others in.
	if err := os.Mkdir(dirs.State, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dirs.State, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := dirs.Make(); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{dirs.State, dirs.Runtime} {
		info, err := os.Stat(dir)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != 0o700 {
			t.Errorf("%s has mode %v", dir, info.Mode())
		}
	}
}

func TestMakeRefuses(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	file := filepath.Join(root, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	open := filepath.Join(root, "open")
	if err := os.Mkdir(open, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(open, 0o750); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		change     func(*Dirs)
		want, hint string
	}{
		"long":              {func(d *Dirs) { d.Runtime = filepath.Join(root, strings.Repeat("x", 100)) }, "at most 107", "XDG_RUNTIME_DIR"},
		"open":              {func(d *Dirs) { d.Runtime = open }, "others can enter", "chmod 0700"},
		"a file":            {func(d *Dirs) { d.Runtime = file }, "not a directory", "XDG_RUNTIME_DIR"},
		"state in a file":   {func(d *Dirs) { d.State = filepath.Join(file, "banger") }, "not a directory", "XDG_STATE_HOME"},
		"runtime in a file": {func(d *Dirs) { d.Runtime = filepath.Join(file, "banger") }, "not a directory", "XDG_RUNTIME_DIR"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dirs := under(t.TempDir())
			test.change(&dirs)
			err := dirs.Make()
			refused := (*Error)(nil)
			if !errors.As(err, &refused) || !strings.Contains(refused.Message, test.want) || !strings.Contains(refused.Hint, test.hint) {
				t.Errorf("Make: %v, want %q with a hint of %q", err, test.want, test.hint)
			}
		})
	}
}

func TestProgram(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	bangerd := filepath.Join(root, "bin", "bangerd")
	built := filepath.Join(root, "bin", Shim)
	if got := Program(bangerd, Shim); got != built {
		t.Errorf("built: %q, want %q", got, built)
	}
	installed := filepath.Join(root, "lib", "banger", Shim)
	if err := os.MkdirAll(filepath.Dir(installed), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(installed, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if got := Program(bangerd, Shim); got != installed {
		t.Errorf("installed: %q, want %q", got, installed)
	}
	failed := errors.New("it failed")
	if err := Missing(installed, failed); !errors.Is(err, failed) {
		t.Errorf("of a program that is there: %v", err)
	}
	missing, ok := errors.AsType[*Error](Missing(built, failed))
	if !ok || !strings.Contains(missing.Message, built) || missing.Hint == "" {
		t.Errorf("of a program that is not: %+v", missing)
	}
}
