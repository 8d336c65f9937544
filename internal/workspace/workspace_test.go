package workspace

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"banger/internal/api"
)

// sandbox is a host's repository and the place where a guest would have it.
type sandbox struct {
	t     testing.TB
	repo  string
	guest string // the repository in the guest
}

func newSandbox(tb testing.TB) *sandbox {
	tb.Helper()
	if _, err := exec.LookPath("git"); err != nil {
		tb.Skip("SKIPPED: git is not installed")
	}
	dir := tb.TempDir()
	s := &sandbox{t: tb, repo: filepath.Join(dir, "repo")}
	s.run(dir, "git", "init", "-q", "-b", "main", "repo")
	s.git("config", "user.name", "Ann Example")
	s.git("config", "user.email", "ann@example.org")
	return s
}

func (s *sandbox) run(dir, name string, args ...string) string {
	s.t.Helper()
	cmd := exec.CommandContext(s.t.Context(), name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null", "LC_ALL=C")
	out, err := cmd.CombinedOutput()
	if err != nil {
		s.t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
	return string(out)
}

func (s *sandbox) git(args ...string) string { s.t.Helper(); return s.run(s.repo, "git", args...) }

// inGuest runs git in what the guest got.
func (s *sandbox) inGuest(args ...string) string {
	s.t.Helper()
	return s.run(s.guest, "git", args...)
}

func (s *sandbox) write(dir, name, content string) {
	s.t.Helper()
	path := filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		s.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		s.t.Fatal(err)
	}
}

func (s *sandbox) commit(message string) {
	s.t.Helper()
	s.git("add", "-A")
	s.git("commit", "-q", "-m", message)
}

// ship does what a run does: list, ship, unpack.
func (s *sandbox) ship(opts Options, untracked bool) (*Shipment, *Record) {
	s.t.Helper()
	ctx := s.t.Context()
	repo, err := Open(ctx, s.repo)
	if err != nil {
		s.t.Fatal(err)
	}
	list, err := repo.List(ctx, untracked)
	if err != nil {
		s.t.Fatal(err)
	}
	shipment, err := repo.Ship(ctx, list, opts)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { shipment.Close() })
	root := s.t.TempDir()
	var stream bytes.Buffer
	if err := shipment.WriteTar(ctx, &stream); err != nil {
		s.t.Fatal(err)
	}
	untar := exec.CommandContext(ctx, "tar", "-x", "--no-same-owner", "-C", root)
	untar.Stdin = &stream
	if out, err := untar.CombinedOutput(); err != nil {
		s.t.Fatalf("tar: %v\n%s", err, out)
	}
	s.guest = filepath.Join(root, repo.Name)
	record, err := shipment.Record(ctx, s.guest)
	if err != nil {
		s.t.Fatal(err)
	}
	return shipment, record
}

// export runs the guest's side on what was unpacked.
func (s *sandbox) export(r *Record, report Report) []byte {
	s.t.Helper()
	before := s.snapshot()
	args := r.ExportCommand(report)
	cmd := exec.CommandContext(s.t.Context(), args[0], args[1:]...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		s.t.Fatalf("export: %v\n%s", err, stderr.String())
	}
	if diff := cmp.Diff(before, s.snapshot()); diff != "" {
		s.t.Errorf("the export changed the guest's .git (-before +after):\n%s", diff)
	}
	return out
}

// snapshot is the content of everything in the guest's .git.
func (s *sandbox) snapshot() map[string]string {
	s.t.Helper()
	files := map[string]string{}
	root := filepath.Join(s.guest, ".git")
	err := filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		files[path] = string(data)
		return err
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return files
}

func TestShip(t *testing.T) {
	t.Parallel()
	s := newSandbox(t)
	s.write(s.repo, "a.txt", "one\n")
	s.write(s.repo, "dir with space/b\nc", "newline\n")
	s.write(s.repo, "latin-\xe4.txt", "not UTF-8\n")
	s.write(s.repo, "gone.txt", "will be deleted\n")
	s.write(s.repo, "tool.sh", "#!/bin/sh\n")
	if err := os.Chmod(filepath.Join(s.repo, "tool.sh"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/passwd", filepath.Join(s.repo, "link")); err != nil {
		t.Fatal(err)
	}
	s.write(s.repo, ".gitignore", "*.o\n")
	for i := range 60 {
		s.write(s.repo, "n", strconv.Itoa(i))
		s.commit(fmt.Sprintf("commit %d", i))
	}
	s.git("remote", "add", "origin", "https://ann:secret@example.org/repo.git")
	s.write(s.repo, "a.txt", "two\n")
	s.write(s.repo, "staged.txt", "staged\n")
	s.git("add", "staged.txt")
	s.write(s.repo, "new.txt", "untracked\n")
	s.write(s.repo, "x.o", "ignored\n")
	if err := os.Remove(filepath.Join(s.repo, "gone.txt")); err != nil {
		t.Fatal(err)
	}
	before := s.git("status", "--porcelain")

	shipment, record := s.ship(Options{}, false)
	if shipment.List.Untracked != 1 {
		t.Errorf("untracked: got %d, want 1", shipment.List.Untracked)
	}
	if !shipment.OriginSecret {
		t.Error("the password in the origin was not noticed")
	}
	want := " M a.txt\n D gone.txt\nA  staged.txt\n"
	if diff := cmp.Diff(want, s.inGuest("status", "--porcelain")); diff != "" {
		t.Errorf("status in the guest (-want +got):\n%s", diff)
	}
	if got := strings.TrimSpace(s.inGuest("config", "remote.origin.url")); got != "https://example.org/repo.git" {
		t.Errorf("origin: got %q", got)
	}
	if got := strings.TrimSpace(s.inGuest("config", "user.email")); got != "ann@example.org" {
		t.Errorf("user.email: got %q", got)
	}
	if got := strings.Count(s.inGuest("log", "--oneline"), "\n"); got != depth {
		t.Errorf("history: got %d commits, want %d", got, depth)
	}
	s.inGuest("fsck", "--full", "--strict")
	if target, err := os.Readlink(filepath.Join(s.guest, "link")); err != nil || target != "/etc/passwd" {
		t.Errorf("link: got %q, %v", target, err)
	}
	if info, err := os.Stat(filepath.Join(s.guest, "tool.sh")); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("tool.sh: got %v, %v", info, err)
	}
	for _, name := range []string{"new.txt", "x.o", "gone.txt"} {
		if _, err := os.Lstat(filepath.Join(s.guest, name)); err == nil {
			t.Errorf("%s was shipped", name)
		}
	}
	if after := s.git("status", "--porcelain"); after != before {
		t.Errorf("shipping changed the host's repository: %q became %q", before, after)
	}
	if out := s.export(record, Patch); len(out) != 0 {
		t.Errorf("nothing was changed, but the export has:\n%s", out)
	}
}

func TestShipUntrackedAndLinkedDirectory(t *testing.T) {
	t.Parallel()
	s := newSandbox(t)
	s.write(s.repo, "dir/secret", "tracked\n")
	s.commit("first")
	outside := t.TempDir()
	s.write(outside, "secret", "outside\n")
	if err := os.RemoveAll(filepath.Join(s.repo, "dir")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(outside, filepath.Join(s.repo, "dir")); err != nil {
		t.Fatal(err)
	}
	s.write(s.repo, "new", "untracked\n")
	shipment, _ := s.ship(Options{}, true)
	var names []string
	for _, f := range shipment.List.Files {
		names = append(names, f.Path)
	}
	slices.Sort(names)
	if diff := cmp.Diff([]string{"dir", "new"}, names); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	if info, err := os.Lstat(filepath.Join(s.guest, "dir")); err != nil || info.Mode()&os.ModeSymlink == 0 {
		t.Errorf("dir: got %v, %v; want a symbolic link", info, err)
	}
}

func TestShipOddRepositories(t *testing.T) {
	t.Parallel()
	tests := map[string]func(s *sandbox){
		"no commit":      func(s *sandbox) { s.write(s.repo, "a", "1"); s.git("add", "a") },
		"nothing at all": func(*sandbox) {},
		"detached":       func(s *sandbox) { s.write(s.repo, "a", "1"); s.commit("1"); s.git("checkout", "-q", "--detach") },
		"worktree": func(s *sandbox) {
			s.write(s.repo, "a", "1")
			s.commit("1")
			tree := filepath.Join(s.t.TempDir(), "tree")
			s.git("worktree", "add", "-q", "-b", "side", tree)
			s.repo = tree
			s.write(s.repo, "a", "2")
		},
		"shallow": func(s *sandbox) {
			for i := range 5 {
				s.write(s.repo, "a", strconv.Itoa(i))
				s.commit("c")
			}
			clone := filepath.Join(s.t.TempDir(), "clone")
			s.git("clone", "-q", "--depth", "2", "file://"+s.repo, clone)
			s.repo = clone
		},
		"sparse": func(s *sandbox) {
			s.write(s.repo, "in/a", "1")
			s.write(s.repo, "out/b", "1")
			s.commit("1")
			s.git("sparse-checkout", "set", "in")
		},
		"line ends and a filter": func(s *sandbox) {
			s.write(s.repo, ".gitattributes", "*.txt text eol=crlf\n*.bin filter=case\n")
			s.git("config", "filter.case.clean", "tr a-z A-Z")
			s.git("config", "filter.case.smudge", "tr A-Z a-z")
			s.write(s.repo, "a.txt", "one\r\ntwo\r\n")
			s.write(s.repo, "b.bin", "content\n")
			s.commit("1")
		},
		"a conflict": func(s *sandbox) {
			s.write(s.repo, "a", "1\n")
			s.commit("1")
			s.git("checkout", "-q", "-b", "other")
			s.write(s.repo, "a", "2\n")
			s.commit("2")
			s.git("checkout", "-q", "main")
			s.write(s.repo, "a", "3\n")
			s.commit("3")
			cmd := exec.CommandContext(s.t.Context(), "git", "merge", "other")
			cmd.Dir = s.repo
			if cmd.Run() == nil {
				s.t.Fatal("the merge has no conflict")
			}
		},
		"a merge": func(s *sandbox) {
			s.write(s.repo, "a", "1\n")
			s.commit("1")
			s.git("checkout", "-q", "-b", "other")
			s.write(s.repo, "b", "2\n")
			s.commit("2")
			s.git("checkout", "-q", "main")
			s.write(s.repo, "c", "3\n")
			s.commit("3")
			s.git("merge", "-q", "--no-edit", "other")
		},
		"split index": func(s *sandbox) {
			s.write(s.repo, "a", "1")
			s.commit("1")
			s.git("update-index", "--split-index")
			s.write(s.repo, "b", "1")
			s.git("add", "b")
		},
	}
	for name, prepare := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newSandbox(t)
			prepare(s)
			_, record := s.ship(Options{}, false)
			if out := s.export(record, Patch); len(out) != 0 {
				t.Errorf("nothing was changed, but the export has:\n%s", out)
			}
			if name != "line ends and a filter" { // the guest has no such filter
				if diff := cmp.Diff(s.git("status", "--porcelain", "-uno"), s.inGuest("status", "--porcelain")); diff != "" {
					t.Errorf("status (-host +guest):\n%s", diff)
				}
			}
			s.inGuest("fsck", "--full")
			s.write(s.guest, "made-in-guest", "x\n")
			patch := s.export(record, Patch)
			if _, err := record.Apply(t.Context(), patch); err != nil {
				t.Fatal(err)
			}
			if data, err := os.ReadFile(filepath.Join(s.repo, "made-in-guest")); err != nil || string(data) != "x\n" {
				t.Errorf("got %q, %v", data, err)
			}
		})
	}
}

func TestBranch(t *testing.T) {
	t.Parallel()
	s := newSandbox(t)
	s.write(s.repo, "a", "1\n")
	s.commit("1")
	s.write(s.repo, "b", "2\n")
	s.commit("2")
	s.ship(Options{Branch: "topic"}, false)
	if got := strings.TrimSpace(s.inGuest("symbolic-ref", "--short", "HEAD")); got != "topic" {
		t.Errorf("branch: got %q", got)
	}
	shipment, _ := s.ship(Options{Branch: "topic", From: "HEAD~1"}, false)
	if shipment.Checkout == "" {
		t.Fatal("nothing to check out")
	}
	s.inGuest("checkout", "-q", "-b", "topic", shipment.Checkout)
	if got := s.inGuest("log", "--format=%s"); got != "1\n" {
		t.Errorf("log: got %q", got)
	}
	repo, err := Open(t.Context(), s.repo)
	if err != nil {
		t.Fatal(err)
	}
	list, err := repo.List(t.Context(), false)
	if err != nil {
		t.Fatal(err)
	}
	for _, opts := range []Options{{Branch: "main"}, {Branch: "a..b"}, {Branch: "-x"}, {Branch: "x", From: "nowhere"}, {From: "HEAD"}} {
		if _, err := repo.Ship(t.Context(), list, opts); !isUsage(err) {
			t.Errorf("%+v: got %v, want a usage error", opts, err)
		}
	}
}

func isUsage(err error) bool {
	e, ok := errors.AsType[*api.Error](err)
	return ok && e.Kind == api.KindUsage
}

func TestNoGit(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	_, err := Open(t.Context(), t.TempDir())
	e, ok := errors.AsType[*api.Error](err)
	if !ok || e.Kind != api.KindState || !strings.Contains(e.Message, "git is not installed") || !strings.Contains(e.Hint, "install git") {
		t.Errorf("got %#v, want a failure that is no wrong usage", err)
	}
}

// TestGitRefuses has git say what is wrong with a repository.
func TestGitRefuses(t *testing.T) {
	broken := map[string]struct {
		breakIt    func(s *sandbox)
		kind       api.Kind
		said, hint string
	}{
		"another user's": {func(s *sandbox) { s.t.Setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1") }, api.KindUsage, "another user", "git config --global --add safe.directory TOP"},
		"its configuration": {
			func(s *sandbox) { s.write(s.repo, ".git/config", "[core\n") },
			api.KindState, "bad config line 1", "git -C TOP/sub status",
		},
		"its version": {
			func(s *sandbox) { s.write(s.repo, ".git/config", "[core]\n\trepositoryFormatVersion = 7\n") },
			api.KindState, "version", "git -C TOP/sub status",
		},
		"a worktree without its repository": {func(s *sandbox) {
			if err := os.RemoveAll(filepath.Join(s.repo, ".git")); err != nil {
				s.t.Fatal(err)
			}
			s.write(s.repo, ".git", "gitdir: /nonexistent\n")
		}, api.KindState, "not a git repository: /nonexistent", "git -C TOP/sub status"},
		"none": {func(s *sandbox) {
			if err := os.RemoveAll(filepath.Join(s.repo, ".git")); err != nil {
				s.t.Fatal(err)
			}
		}, api.KindUsage, "it is not in a git repository", "git init"},
	}
	for name, test := range broken {
		t.Run(name, func(t *testing.T) {
			s := newSandbox(t)
			s.write(s.repo, "sub/a", "1")
			test.breakIt(s)
			_, err := Open(t.Context(), filepath.Join(s.repo, "sub"))
			e, ok := errors.AsType[*api.Error](err)
			if !ok || e.Kind != test.kind || !strings.Contains(e.Message, test.said) || !strings.Contains(e.Hint, strings.ReplaceAll(test.hint, "TOP", s.repo)) || strings.Contains(e.Message, "\n") {
				t.Errorf("got %#v", err)
			}
		})
	}
}

func TestRefused(t *testing.T) {
	t.Parallel()
	s := newSandbox(t)
	s.write(s.repo, "a", "1")
	s.commit("1")
	bare := filepath.Join(t.TempDir(), "bare.git")
	s.git("clone", "-q", "--bare", s.repo, bare)
	for _, path := range []string{bare, t.TempDir(), filepath.Join(s.repo, "a"), filepath.Join(s.repo, "missing")} {
		if _, err := Open(t.Context(), path); !isUsage(err) {
			t.Errorf("%s: got %v, want a usage error", path, err)
		}
	}
	s.git("-c", "protocol.file.allow=always", "submodule", "add", "-q", s.repo, "sub")
	repo, err := Open(t.Context(), s.repo)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := repo.List(t.Context(), false); !isUsage(err) || !strings.Contains(err.Error(), "submodule") {
		t.Errorf("got %v, want an error about the submodule", err)
	}
}

func TestExportAndApply(t *testing.T) {
	t.Parallel()
	s := newSandbox(t)
	s.write(s.repo, "keep", "1\n")
	s.write(s.repo, "change", "1\n")
	s.write(s.repo, "delete", "1\n")
	s.commit("1")
	s.write(s.repo, "change", "dirty\n")
	_, record := s.ship(Options{}, false)
	file := RecordFile(t.TempDir(), "repo")
	if err := record.Save(file); err != nil {
		t.Fatal(err)
	}
	record, err := Load(file)
	if err != nil {
		t.Fatal(err)
	}

	s.write(s.guest, "change", "by the guest\n")
	s.write(s.guest, "binary", "a\x00b\xff")
	s.inGuest("rm", "-q", "delete")
	s.inGuest("add", "-A")
	s.inGuest("-c", "user.name=x", "-c", "user.email=x@x", "commit", "-q", "-m", "in the guest")
	s.write(s.guest, "later", "not committed\n")
	if diff := cmp.Diff("A\tbinary\nM\tchange\nD\tdelete\nA\tlater\n", string(s.export(record, Names))); diff != "" {
		t.Errorf("names (-want +got):\n%s", diff)
	}
	patch := s.export(record, Patch)

	s.write(s.repo, "change", "by the host\n")
	_, err = record.Apply(t.Context(), patch)
	if err == nil || !strings.Contains(err.Error(), "change") {
		t.Fatalf("got %v, want a conflict in %q", err, "change")
	}
	if _, err := os.Stat(filepath.Join(s.repo, "later")); err == nil {
		t.Fatal("a refused patch was applied in part")
	}
	s.write(s.repo, "change", "dirty\n")
	paths, err := record.Apply(t.Context(), patch)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"binary", "change", "delete", "later"}, paths); diff != "" {
		t.Errorf("paths (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(" M change\n D delete\n?? binary\n?? later\n", s.git("status", "--porcelain")); diff != "" {
		t.Errorf("status on the host (-want +got):\n%s", diff)
	}
	if data, err := os.ReadFile(filepath.Join(s.repo, "binary")); err != nil || string(data) != "a\x00b\xff" {
		t.Errorf("binary: got %q, %v", data, err)
	}
}

func TestHostilePatch(t *testing.T) { //nolint:tparallel // the cases look at one repository
	t.Parallel()
	s := newSandbox(t)
	s.write(s.repo, "a", "1\n")
	s.commit("1")
	outside := t.TempDir()
	if err := os.Symlink(outside, filepath.Join(s.repo, "out")); err != nil {
		t.Fatal(err)
	}
	s.git("add", "-A")
	_, record := s.ship(Options{}, false)
	before := s.git("status", "--porcelain")
	hook := filepath.Join(s.repo, ".git", "hooks", "pre-commit")
	create := func(name string) string {
		return fmt.Sprintf("diff --git a/%s b/%s\nnew file mode 100755\n--- /dev/null\n+++ b/%s\n@@ -0,0 +1 @@\n+evil\n", name, name, name)
	}
	patches := map[string]string{
		"hook":               create(".git/hooks/pre-commit"),
		"hook in capitals":   create(".GIT/hooks/pre-commit"),
		"above":              create("../evil"),
		"absolute":           create("/tmp/banger-evil"),
		"through a link":     create("out/evil"),
		"inner repository":   create("sub/.git/config"),
		"rename":             "diff --git a/a b/b\nsimilarity index 100%\nrename from a\nrename to b\n",
		"git's own, copied":  "diff --git a/.git/config b/b\nsimilarity index 100%\ncopy from .git/config\ncopy to b\n",
		"file and directory": create("l") + create("l/x"),
		"garbage":            "not a patch\n",
		"a file not there":   "--- a/missing\n+++ b/missing\n@@ -1 +1 @@\n-x\n+y\n",
		"link, then inside":  "diff --git a/l b/l\nnew file mode 120000\n--- /dev/null\n+++ b/l\n@@ -0,0 +1 @@\n+" + outside + "\n\\ No newline at end of file\n" + create("l/evil"),
		"gitlink":            "diff --git a/sub b/sub\nnew file mode 160000\n--- /dev/null\n+++ b/sub\n@@ -0,0 +1 @@\n+Subproject commit 0123456789012345678901234567890123456789\n",
	}
	for name, patch := range patches {
		t.Run(name, func(t *testing.T) {
			if paths, err := record.Apply(t.Context(), []byte(patch)); err == nil {
				t.Errorf("applied to %q", paths)
			}
			if after := s.git("status", "--porcelain"); after != before {
				t.Errorf("the repository changed:\n%s", after)
			}
			if _, err := os.Lstat(hook); err == nil {
				t.Error("a hook was written")
			}
			if left, err := os.ReadDir(outside); err != nil || len(left) > 0 {
				t.Errorf("written outside: %v, %v", left, err)
			}
		})
	}
}

func TestRecordDamaged(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if _, err := Load(filepath.Join(dir, "missing")); !errors.Is(err, ErrNoRecord) {
		t.Errorf("missing: got %v", err)
	}
	for _, content := range []string{"", "{", "{}", "nonsense\n", "{}\nonly two\x00"} {
		file := filepath.Join(dir, "record")
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Load(file); err == nil {
			t.Errorf("%q: no error", content)
		}
	}
}

func FuzzParseStage(f *testing.F) {
	f.Add([]byte("100644 0123 0\ta b\nc\x00"))
	f.Add([]byte("\x00\x00"))
	f.Fuzz(func(t *testing.T, data []byte) {
		entries, err := parseStage(data)
		if err != nil {
			return
		}
		for _, e := range entries {
			if e.path == "" || e.mode == "" {
				t.Errorf("%q gave %+v", data, e)
			}
		}
	})
}

func FuzzParseNumstat(f *testing.F) {
	f.Add([]byte("1\t2\tdir/name\x00-\t-\tbinary\x00"))
	f.Add([]byte("0\t0\t.git/config\x000\t0\t../x\x00"))
	f.Fuzz(func(t *testing.T, data []byte) {
		paths, err := parseNumstat(data)
		if err != nil {
			return
		}
		for _, p := range paths {
			if !filepath.IsLocal(p) || strings.HasPrefix(strings.ToLower(p), ".git/") {
				t.Errorf("%q let %q through", data, p)
			}
		}
	})
}

// FuzzApply has a guest send anything as its patch: what is git's and what is
// outside of the repository stays, and so does everything if it is refused.
func FuzzApply(f *testing.F) {
	file := func(name, mode string) string {
		return fmt.Sprintf("diff --git a/%s b/%s\nnew file mode %s\n--- /dev/null\n+++ b/%s\n@@ -0,0 +1 @@\n+x\n", name, name, mode, name)
	}
	for _, name := range []string{"new", ".git/hooks/post-checkout", "../outside/x", "link/x", "dir/.GIT/config"} {
		f.Add([]byte(file(name, "100755")))
	}
	f.Add([]byte(file("l", "120000") + file("l/x", "100644")))
	f.Add([]byte("diff --git a/a b/b\nsimilarity index 100%\nrename from a\nrename to dir/b\n"))
	f.Add([]byte("diff --git a/a b/a\ndeleted file mode 100644\n--- a/a\n+++ /dev/null\n@@ -1 +0,0 @@\n-1\n"))
	f.Add([]byte("--- a/a\n+++ b/a\n@@ -1 +1 @@\n-1\n+2\n"))
	s := newSandbox(f)
	top, saved := filepath.Dir(s.repo), filepath.Join(f.TempDir(), "saved")
	s.write(top, "outside/kept", "1\n")
	s.write(s.repo, "a", "1\n")
	if err := os.Symlink("../outside", filepath.Join(s.repo, "link")); err != nil {
		f.Fatal(err)
	}
	s.commit("1")
	_, record := s.ship(Options{}, false)
	if err := os.CopyFS(saved, os.DirFS(top)); err != nil {
		f.Fatal(err)
	}
	before := contents(f, top)
	f.Fuzz(func(t *testing.T, patch []byte) {
		paths, err := record.Apply(t.Context(), patch)
		after := contents(t, top)
		if maps.Equal(before, after) {
			return
		}
		for name := range before {
			if _, ok := after[name]; !ok {
				after[name] = "nothing"
			}
		}
		for name := range after {
			inside, ok := strings.CutPrefix(name, "repo/")
			if before[name] != after[name] && (err != nil || !ok || strings.HasPrefix(inside, ".git/") || !slices.Contains(paths, inside)) {
				t.Errorf("%q was %q and is %q; the error is %v, the paths %q", name, before[name], after[name], err, paths)
			}
		}
		if err := errors.Join(os.RemoveAll(top), os.CopyFS(top, os.DirFS(saved))); err != nil {
			t.Fatal(err)
		}
	})
}

// contents are the files below a directory, and where its links lead.
func contents(tb testing.TB, top string) map[string]string {
	tb.Helper()
	files := map[string]string{}
	err := filepath.WalkDir(top, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(top, path)
		if err != nil {
			return err
		}
		if d.Type()&os.ModeSymlink != 0 {
			files[name], err = os.Readlink(path)
			return err
		}
		data, err := os.ReadFile(path)
		files[name] = "file " + string(data)
		return err
	})
	if err != nil {
		tb.Fatal(err)
	}
	return files
}
