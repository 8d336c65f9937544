package objects_test

import (
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"banger/internal/objects"
)

type about struct {
	Version string `json:"version"`
}

type store = objects.Store[about]

// writer builds an object with one part, "disk", that holds content.
func writer(content string) func(context.Context, string) (about, error) {
	return func(_ context.Context, tmp string) (about, error) {
		if err := os.MkdirAll(filepath.Join(tmp, "sub"), 0o700); err != nil {
			return about{}, err
		}
		return about{Version: "v-" + content}, os.WriteFile(filepath.Join(tmp, "sub", "disk"), []byte(content), 0o600)
	}
}

func fill(t *testing.T, s *store, name, content string) objects.Object[about] {
	t.Helper()
	object, err := s.Fill(t.Context(), name, writer(content))
	if err != nil {
		t.Fatal(err)
	}
	return object
}

func TestMain(m *testing.M) {
	if dir := os.Getenv("OBJECTS_TEST_CHILD"); dir != "" {
		child(dir, os.Getenv("OBJECTS_TEST_NAME"))
	}
	m.Run()
}

// child begins a Fill, says so, and hangs in it until it is killed.
func child(dir, name string) {
	_, err := objects.Open[about](dir).Fill(context.Background(), name, func(_ context.Context, tmp string) (about, error) {
		if err := os.WriteFile(filepath.Join(tmp, "half"), []byte("half"), 0o600); err != nil {
			return about{}, err
		}
		if _, err := os.Stdout.WriteString("building\n"); err != nil {
			return about{}, err
		}
		time.Sleep(time.Hour) // not select{}: the runtime would call it a deadlock
		return about{}, errors.New("not killed")
	})
	panic(err)
}

func TestFillAndGet(t *testing.T) {
	t.Parallel()
	s := objects.Open[about](filepath.Join(t.TempDir(), "not", "yet"))
	if _, err := s.Get("a"); !errors.Is(err, objects.ErrNotFound) {
		t.Fatalf("Get of an empty store: %v", err)
	}
	if list, err := s.List(); err != nil || len(list) != 0 {
		t.Fatalf("List of an empty store: %v, %v", list, err)
	}
	if err := s.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	made := fill(t, s, "a", "hello")
	got, err := s.Get("a")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(made, got); diff != "" {
		t.Errorf("Fill and Get differ (-fill +get):\n%s", diff)
	}
	if got.Manifest.Version != "v-hello" || got.Name != "a" || got.Created.IsZero() || got.Size < 4096 {
		t.Errorf("got %+v", got)
	}
	data, err := os.ReadFile(got.Path("sub/disk"))
	if err != nil || string(data) != "hello" {
		t.Errorf("part: %q, %v", data, err)
	}
	info, err := os.Stat(got.Path("sub/disk"))
	if err != nil || info.Mode().Perm() != 0o444 {
		t.Errorf("part's mode: %v, %v", info.Mode(), err)
	}
	m, err := os.ReadFile(got.Path("manifest.json"))
	if err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf("sha256:%x", sha256.Sum256(m)); got.Digest != want {
		t.Errorf("digest %s, want that of the manifest, %s", got.Digest, want)
	}
	if want := fmt.Sprintf("%x", sha256.Sum256([]byte("hello"))); !strings.Contains(string(m), want) {
		t.Errorf("no digest %s of the part in %s", want, m)
	}
	again, err := s.Fill(t.Context(), "a", func(context.Context, string) (about, error) {
		t.Error("built again")
		return about{}, nil
	})
	if err != nil || again.Digest != made.Digest {
		t.Errorf("second Fill: %+v, %v", again, err)
	}
	wantEmpty(t, s, made.Dir)
}

// wantEmpty checks that no temporary directory is left in the store of the
// object in dir.
func wantEmpty(t *testing.T, _ *store, dir string) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(dir, "..", "..", "tmp"))
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		t.Errorf("left in tmp: %s", entry.Name())
	}
}

func TestNames(t *testing.T) {
	t.Parallel()
	s := objects.Open[about](t.TempDir())
	for _, name := range []string{"", ".", "..", ".a", "-a", "a/b", "a@b", "ä", "a b", "a\x00", strings.Repeat("a", 129)} {
		_, getErr := s.Get(name)
		_, fillErr := s.Fill(t.Context(), name, writer("x"))
		for what, err := range map[string]error{"Get": getErr, "Fill": fillErr, "Delete": s.Delete(t.Context(), name)} {
			if !errors.Is(err, objects.ErrBadName) {
				t.Errorf("%s(%q): %v", what, name, err)
			}
		}
	}
	for _, name := range []string{"a", "debian-6.12", "A_b.c-1", "0", strings.Repeat("a", 128)} {
		fill(t, s, name, name)
	}
}

func TestBuildFails(t *testing.T) {
	t.Parallel()
	boom := &fs.PathError{Op: "write", Path: "disk", Err: syscall.ENOSPC}
	tests := map[string]struct {
		build func(tmp string) error
		want  error
	}{
		"disk full":   {func(string) error { return fmt.Errorf("cannot build: %w", boom) }, syscall.ENOSPC},
		"symlink":     {func(tmp string) error { return os.Symlink("/etc/passwd", filepath.Join(tmp, "disk")) }, nil},
		"fifo":        {func(tmp string) error { return syscall.Mkfifo(filepath.Join(tmp, "disk"), 0o600) }, nil},
		"own name":    {func(tmp string) error { return os.WriteFile(filepath.Join(tmp, "manifest.json"), nil, 0o600) }, nil},
		"removed tmp": {os.Remove, fs.ErrNotExist},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			s := objects.Open[about](dir)
			_, err := s.Fill(t.Context(), "a", func(_ context.Context, tmp string) (about, error) { return about{}, test.build(tmp) })
			if err == nil || (test.want != nil && !errors.Is(err, test.want)) {
				t.Errorf("Fill: %v", err)
			}
			if _, err := s.Get("a"); !errors.Is(err, objects.ErrNotFound) {
				t.Errorf("Get: %v", err)
			}
			for _, sub := range []string{"tmp", "objects", "names"} {
				if entries, err := os.ReadDir(filepath.Join(dir, sub)); err != nil || len(entries) != 0 {
					t.Errorf("left in %s: %v, %v", sub, entries, err)
				}
			}
			fill(t, s, "a", "good")
		})
	}
}

func TestFillCanceled(t *testing.T) {
	t.Parallel()
	s := objects.Open[about](t.TempDir())
	ctx, cancel := context.WithCancel(t.Context())
	_, err := s.Fill(ctx, "a", func(ctx context.Context, tmp string) (about, error) {
		cancel()
		return writer("x")(ctx, tmp)
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Fill: %v", err)
	}
	if _, err := s.Get("a"); !errors.Is(err, objects.ErrNotFound) {
		t.Errorf("Get: %v", err)
	}
}

func TestConcurrentFillBuildsOnce(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var builds atomic.Int32
	var group errgroup.Group
	for range 16 {
		group.Go(func() error {
			// Each has a store of its own, as processes have.
			object, err := objects.Open[about](dir).Fill(t.Context(), "a", func(ctx context.Context, tmp string) (about, error) {
				builds.Add(1)
				return writer("x")(ctx, tmp)
			})
			if err == nil && object.Manifest.Version != "v-x" {
				return fmt.Errorf("got %+v", object)
			}
			return err
		})
	}
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
	if n := builds.Load(); n != 1 {
		t.Errorf("built %d times", n)
	}
}

func TestWaitingFillAfterFailureBuilds(t *testing.T) {
	t.Parallel()
	s := objects.Open[about](t.TempDir())
	inside, release := make(chan struct{}), make(chan struct{})
	var group errgroup.Group
	group.Go(func() error {
		_, err := s.Fill(t.Context(), "a", func(context.Context, string) (about, error) {
			close(inside)
			<-release
			return about{}, errors.ErrUnsupported
		})
		if !errors.Is(err, errors.ErrUnsupported) {
			return fmt.Errorf("first: %w", err)
		}
		return nil
	})
	<-inside

	// One that gives up while it waits, and another name, which does not wait.
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := s.Fill(ctx, "a", writer("x")); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("canceled wait: %v", err)
	}
	if err := s.Delete(ctx, "a"); !errors.Is(err, objects.ErrNotFound) {
		t.Errorf("Delete of what is being made: %v", err)
	}
	fill(t, s, "b", "y")
	if err := s.Sweep(t.Context()); err != nil {
		t.Error(err)
	}

	group.Go(func() error {
		_, err := s.Fill(t.Context(), "a", writer("x"))
		return err
	})
	close(release)
	if err := group.Wait(); err != nil {
		t.Error(err)
	}
	if _, err := s.Get("a"); err != nil {
		t.Error(err)
	}
}

func TestSharedObject(t *testing.T) {
	t.Parallel()
	s := objects.Open[about](t.TempDir())
	a, b := fill(t, s, "a", "same"), fill(t, s, "b", "same")
	if a.Dir != b.Dir {
		t.Fatalf("not shared: %s, %s", a.Dir, b.Dir)
	}
	other := fill(t, s, "c", "other")
	if err := s.Delete(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Get("b"); err != nil {
		t.Errorf("Get(b): %v", err)
	}
	if err := s.Delete(t.Context(), "b"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(a.Dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("object without a name: %v", err)
	}
	if err := s.Delete(t.Context(), "b"); !errors.Is(err, objects.ErrNotFound) {
		t.Errorf("second Delete: %v", err)
	}
	list, err := s.List()
	if err != nil || len(list) != 1 || list[0].Digest != other.Digest {
		t.Errorf("List: %+v, %v", list, err)
	}
	wantEmpty(t, s, a.Dir)
}

func TestBroken(t *testing.T) {
	t.Parallel()
	const zeros = "sha256:0000000000000000000000000000000000000000000000000000000000000000"
	damage := map[string]func(o objects.Object[about], nameFile string) error{
		"part missing":   func(o objects.Object[about], _ string) error { return os.Remove(o.Path("sub/disk")) },
		"part truncated": func(o objects.Object[about], _ string) error { return os.Truncate(o.Path("sub/disk"), 1) },
		"part replaced by a symlink": func(o objects.Object[about], _ string) error {
			return errors.Join(os.Rename(o.Path("sub/disk"), o.Path("disk")), os.Symlink("../disk", o.Path("sub/disk")))
		},
		"manifest missing": func(o objects.Object[about], _ string) error { return os.Remove(o.Path("manifest.json")) },
		"manifest changed": func(o objects.Object[about], _ string) error {
			return os.WriteFile(o.Path("manifest.json"), []byte("{}"), 0o600)
		},
		"object missing": func(o objects.Object[about], _ string) error { return os.RemoveAll(o.Dir) },
		"name empty":     func(_ objects.Object[about], name string) error { return os.WriteFile(name, nil, 0o600) },
		"name means another": func(_ objects.Object[about], name string) error {
			return os.WriteFile(name, []byte(`{"digest":"`+zeros+`"}`), 0o600)
		},
		"name escapes": func(_ objects.Object[about], name string) error {
			return os.WriteFile(name, []byte(`{"digest":"sha256:../../x"}`), 0o600)
		},
	}
	for name, damage := range damage {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			s := objects.Open[about](dir)
			fill(t, s, "good", "good")
			bad := fill(t, s, "bad", "bad")
			doDamage := func() {
				t.Helper()
				// Root is not stopped by the mode of parts, others shall not be either.
				if err := os.Chmod(bad.Path("sub/disk"), 0o600); err != nil {
					t.Fatal(err)
				}
				if err := damage(bad, filepath.Join(dir, "names", "bad.json")); err != nil {
					t.Fatal(err)
				}
			}
			doDamage()
			if _, err := s.Get("bad"); !errors.Is(err, objects.ErrBroken) {
				t.Errorf("Get: %v", err)
			}
			list, err := s.List()
			if !errors.Is(err, objects.ErrBroken) || len(list) != 1 || list[0].Name != "good" {
				t.Errorf("List: %+v, %v", list, err)
			}
			if mended := fill(t, s, "bad", "bad"); mended.Digest != bad.Digest {
				t.Errorf("mended: %+v", mended)
			}
			if _, err := s.Get("bad"); err != nil {
				t.Errorf("Get of the mended: %v", err)
			}
			doDamage()
			if err := s.Delete(t.Context(), "bad"); err != nil {
				t.Errorf("Delete: %v", err)
			}
			if _, err := os.Stat(bad.Dir); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("object of the deleted: %v", err)
			}
			list, err = s.List()
			if err != nil || len(list) != 1 {
				t.Errorf("List: %+v, %v", list, err)
			}
		})
	}
}

// killInFill starts a process, kills it in the middle of a Fill, and returns
// what it has left in tmp.
func killInFill(t *testing.T, dir, name string) string {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe)
	cmd.Env = append(os.Environ(), "OBJECTS_TEST_CHILD="+dir, "OBJECTS_TEST_NAME="+name)
	cmd.Stderr = t.Output()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || line != "building\n" {
		t.Fatalf("child: %q, %v", line, err)
	}
	s := objects.Open[about](dir)
	if err := s.Sweep(t.Context()); err != nil {
		t.Error(err)
	}
	left, err := filepath.Glob(filepath.Join(dir, "tmp", name+"@*", "half"))
	if err != nil || len(left) != 1 {
		t.Fatalf("while it builds: %v, %v", left, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := s.Fill(ctx, name, writer("x")); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Fill while another process fills: %v", err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil {
		t.Fatal("the child was not killed")
	}
	return filepath.Dir(left[0])
}

func TestKilledInFill(t *testing.T) {
	t.Parallel()
	for name, next := range map[string]func(*store) error{
		"then Fill": func(s *store) error {
			_, err := s.Fill(t.Context(), "a", writer("x"))
			return err
		},
		"then Sweep": func(s *store) error { return s.Sweep(t.Context()) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			s := objects.Open[about](dir)
			other := fill(t, s, "other", "other")
			left := killInFill(t, dir, "a")
			if _, err := s.Get("a"); !errors.Is(err, objects.ErrNotFound) {
				t.Errorf("Get: %v", err)
			}
			if _, err := os.Stat(left); err != nil {
				t.Fatalf("nothing was left to be cleaned up: %v", err)
			}
			if err := next(s); err != nil {
				t.Fatal(err)
			}
			wantEmpty(t, s, other.Dir)
			fill(t, s, "a", "x")
			if _, err := s.Get("other"); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestSweepRemovesUnnamedObjects(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := objects.Open[about](dir)
	a, b := fill(t, s, "a", "a"), fill(t, s, "b", "b")
	// As after a kill between the two renames that publish an object.
	if err := os.Rename(filepath.Join(dir, "names", "a.json"), filepath.Join(dir, "names", "a.json.new")); err != nil {
		t.Fatal(err)
	}
	if err := s.Sweep(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(a.Dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("unnamed object: %v", err)
	}
	if _, err := s.Get("b"); err != nil {
		t.Errorf("Get(%s): %v", b.Name, err)
	}
	fill(t, s, "a", "a")
}

func TestDeleteWhereNothingWasMade(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := objects.Open[about](dir)
	fill(t, s, "a", "a")
	if err := os.Remove(filepath.Join(dir, "tmp")); err != nil { // as in a store that was copied
		t.Fatal(err)
	}
	if err := s.Delete(t.Context(), "a"); err != nil {
		t.Error(err)
	}
}

func TestImport(t *testing.T) {
	t.Parallel()
	object := fill(t, objects.Open[about](t.TempDir()), "a", "content")
	origin := objects.Origin{From: "https://example.org/x", SignedBy: "ssh-ed25519 AAAA"}
	s := objects.Open[about](t.TempDir())
	if got, err := s.Import(t.Context(), "a", object.Digest, origin, writer("other")); err == nil {
		t.Errorf("of something else: %+v", got)
	}
	if _, err := s.Get("a"); !errors.Is(err, objects.ErrNotFound) {
		t.Errorf("something else is there: %v", err)
	}
	for range 2 {
		if got, err := s.Import(t.Context(), "a", object.Digest, origin, writer("content")); err != nil || got.Digest != object.Digest || got.Origin != origin {
			t.Errorf("got %+v, %v", got, err)
		}
	}
	if _, err := s.Import(t.Context(), "a", strings.Replace(object.Digest, ":", ":0", 1), origin, writer("content")); !errors.Is(err, objects.ErrTaken) {
		t.Errorf("over another: %v", err)
	}
}

func TestKeep(t *testing.T) {
	t.Parallel()
	s := objects.Open[about](t.TempDir())
	first := fill(t, s, "a", "first")
	var kept string
	for range 2 {
		var err error
		if kept, err = s.Keep(t.Context(), "a"); err != nil || !strings.HasPrefix(kept, "a-") {
			t.Fatalf("kept as %q, %v", kept, err)
		}
	}
	_, err := s.Replace(t.Context(), "a", func(publish func() error) error { return publish() }, writer("second"))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := s.Get(kept); err != nil || got.Digest != first.Digest {
		t.Errorf("after the replacement it has %+v, %v", got, err)
	}
	if _, err := s.Keep(t.Context(), "none"); !errors.Is(err, objects.ErrNotFound) {
		t.Errorf("of a name that is not there: %v", err)
	}
}

var errUnreachable = errors.New("temporary files are out of reach for ordinary users")

// What is not writable is removed too. Root is an ordinary user here, as far as
// files go.
func TestLeftoversThatAreNotWritable(t *testing.T) {
	t.Parallel()
	const nobody = 65534
	dir := t.TempDir()
	left := filepath.Join(dir, "tmp", "a@1")
	if err := errors.Join(os.MkdirAll(filepath.Join(left, "sub"), 0o700), os.WriteFile(filepath.Join(left, "sub", "file"), nil, 0o400)); err != nil {
		t.Fatal(err)
	}
	if os.Geteuid() == 0 {
		if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil {
			t.Fatal(err)
		}
		for _, path := range []string{dir, filepath.Dir(left), left, filepath.Join(left, "sub"), filepath.Join(left, "sub", "file")} {
			if err := os.Chown(path, nobody, nobody); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := errors.Join(os.Chmod(filepath.Join(left, "sub"), 0o555), os.Chmod(left, 0o555)); err != nil {
		t.Fatal(err)
	}
	filled := make(chan error, 1)
	go func() {
		if os.Geteuid() == 0 {
			runtime.LockOSThread() // for good: the thread ends with the goroutine
			if err := unix.Setfsuid(nobody); err != nil {
				filled <- err
				return
			}
			if _, err := os.Stat(left); err != nil {
				filled <- errUnreachable
				return
			}
		}
		_, err := objects.Open[about](dir).Fill(t.Context(), "a", writer("a"))
		filled <- err
	}()
	err := <-filled
	if errors.Is(err, errUnreachable) {
		t.Skip("SKIPPED: ", err)
	}
	if err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(left); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("left: %v", err)
	}
}
