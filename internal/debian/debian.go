// Package debian builds trees of Debian packages from the distribution's own
// signed archive, by running mmdebstrap. The tree comes as a tar stream;
// nothing is unpacked where the caller could see it, and nothing needs root
// where the kernel lets users make user namespaces.
package debian

import (
	"archive/tar"
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"banger/internal/api"
	"banger/internal/excerpt"
	"banger/internal/progress"
)

// Options say what to build.
type Options struct {
	Suite      string   // "bookworm"
	Variant    string   // mmdebstrap's: "extract", "apt", "minbase", ...; empty is its default
	Components []string // empty is main
	Include    []string // packages, apt patterns allowed
	Mirror     string   // a URL or a file of sources; empty is mmdebstrap's default for the suite
	AptOptions []string // apt.conf lines, such as `Acquire::Languages "none"`
	DpkgOpts   []string // dpkg.cfg lines, such as `path-exclude=/usr/share/doc/*`
	Skip       []string // steps mmdebstrap is to leave out

	// ExtractHooks are run outside the tree by "sh -c", with its path as $1,
	// once packages are unpacked; they are what is left to do in the variant
	// "extract". APT_CONFIG is mmdebstrap's for the tree.
	ExtractHooks []string

	// Files, if set, writes an archive that is unpacked over the tree once
	// all packages are installed, with the owners and modes it gives. It is
	// for variants that install packages, as are Scripts.
	Files func(*tar.Writer) error
	// Scripts are run after that, in order, as root inside the tree by
	// "/bin/sh -eu".
	Scripts []string

	// TempDir is where the tree is put together: a file system of its size
	// that other users may enter, as in user namespaces root is one. Empty
	// is what [DefaultTempDir] says.
	TempDir string
}

// tools must be there; the value is what has it.
var tools = []struct{ name, pkg string }{
	{"mmdebstrap", "mmdebstrap"},
	{"apt-get", "apt"},
	{"tar", "tar"},
}

// keyrings are the places of the keys that the archive is signed with.
func keyrings() []string {
	return []string{
		"/usr/share/keyrings/debian-archive-keyring.gpg",
		"/usr/share/keyrings/debian-archive-keyring.pgp",
		"/etc/apt/trusted.gpg.d/debian-archive-keyring.gpg",
	}
}

// Check says what this machine lacks for [Bootstrap], as an [api.Error] with
// a hint, or nil. It starts a process or two and changes nothing.
func Check(ctx context.Context) error {
	_, err := newRunner(ctx)
	return err
}

// Version is mmdebstrap's own.
func Version(ctx context.Context) (string, error) {
	cmd := exec.CommandContext(ctx, "mmdebstrap", "--version")
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("cannot ask mmdebstrap for its version: %w", err)
	}
	return strings.TrimSpace(strings.TrimPrefix(string(out), "mmdebstrap")), nil
}

// Bootstrap builds the tree and writes it to w as one tar archive. When ctx is
// canceled or w fails, every process of the build is killed and its files are
// removed before Bootstrap returns; so are those of a process that died in
// the middle of an earlier call. Calls may run side by side.
func Bootstrap(ctx context.Context, opts Options, w io.Writer, report progress.Func) (err error) {
	if opts.Variant == "extract" && (opts.Files != nil || len(opts.Scripts) > 0) {
		return errors.New("cannot build from the Debian archive: files and scripts have no place in a tree whose packages are only unpacked")
	}
	run, err := newRunner(ctx)
	if err != nil {
		return err
	}
	base := opts.TempDir
	if base == "" {
		base = DefaultTempDir()
		if wanted := os.Getenv("TMPDIR"); filepath.IsAbs(wanted) && base != wanted {
			report.Warn(fmt.Sprintf("the build is in %s: other users, as which parts of it run, may not enter TMPDIR, %s", base, wanted))
		}
	}
	if err := sweep(base, run.remove); err != nil {
		report.Warn(err.Error())
	}
	dir, err := newWorkDir(base)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dir.Remove(run.remove)) }()

	files := ""
	if opts.Files != nil {
		files = filepath.Join(dir.path, "files.tar")
		if err := writeTar(files, opts.Files); err != nil {
			return err
		}
	}
	args := arguments(opts, run.mode, files)
	return run.build(ctx, dir.Tree(), args, w, report)
}

// DefaultTempDir is where trees are put together unless told otherwise: TMPDIR,
// if those who must can enter it.
func DefaultTempDir() string {
	if dir := os.Getenv("TMPDIR"); filepath.IsAbs(dir) && (os.Getuid() == 0 || enterable(dir)) {
		return dir
	}
	return "/var/tmp"
}

// enterable says whether every user may enter a directory, or it is not there.
func enterable(dir string) bool {
	for ; ; dir = filepath.Dir(dir) {
		if info, err := os.Stat(dir); err == nil && info.Mode()&0o001 == 0 {
			return false
		}
		if dir == filepath.Dir(dir) {
			return true
		}
	}
}

// arguments are mmdebstrap's for opts, without its name.
func arguments(opts Options, mode []string, files string) []string {
	args := append([]string{}, mode...)
	args = append(args, "--format=tar")
	list := func(flag string, values []string) {
		if len(values) > 0 {
			args = append(args, flag+"="+strings.Join(values, ","))
		}
	}
	if opts.Variant != "" {
		args = append(args, "--variant="+opts.Variant)
	}
	list("--components", opts.Components)
	list("--include", opts.Include)
	list("--skip", opts.Skip)
	for _, opt := range opts.AptOptions {
		args = append(args, "--aptopt="+opt)
	}
	for _, opt := range opts.DpkgOpts {
		args = append(args, "--dpkgopt="+opt)
	}
	for _, hook := range opts.ExtractHooks {
		args = append(args, "--extract-hook=export APT_CONFIG=\"$MMDEBSTRAP_APT_CONFIG\"\n"+hook)
	}
	if files != "" {
		args = append(args, "--customize-hook=tar-in "+quote(files)+" /")
	}
	for _, script := range opts.Scripts {
		args = append(args, `--customize-hook=chroot "$1" /bin/sh -euc `+quote(script))
	}
	if len(opts.Scripts) > 0 {
		args = append(args, "--customize-hook="+keepAptConfig)
	}
	args = append(args, opts.Suite, "-")
	if opts.Mirror != "" {
		args = append(args, opts.Mirror)
	}
	return args
}

// keepAptConfig fails a build whose scripts removed apt's configuration from
// the tree's /tmp: apt ignores one that is missing, and mmdebstrap's clean-up
// would go on with the host's own apt.
const keepAptConfig = `test -e "$MMDEBSTRAP_APT_CONFIG" || { echo "E: a script removed apt's configuration from /tmp" >&2; exit 1; }`

// quote makes s one word of a shell.
func quote(s string) string {
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

func writeTar(path string, fill func(*tar.Writer) error) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return fmt.Errorf("cannot collect the files of the tree: %w", err)
	}
	defer f.Close()
	buf := bufio.NewWriterSize(f, 1<<20)
	tw := tar.NewWriter(buf)
	if err := fill(tw); err != nil {
		return err
	}
	if err := errors.Join(tw.Close(), buf.Flush(), f.Close()); err != nil {
		return fmt.Errorf("cannot collect the files of the tree: %w", err)
	}
	return nil
}

// runner knows how to run mmdebstrap on this machine.
type runner struct {
	mode   []string // mmdebstrap's arguments for the way found
	prefix []string // a command that mmdebstrap is run by
	remove []string // a command that removes the trees given as arguments
}

func newRunner(ctx context.Context) (runner, error) {
	var missing []string
	for _, tool := range tools {
		if _, err := exec.LookPath(tool.name); err != nil {
			missing = append(missing, tool.pkg)
		}
	}
	if !anyExists(keyrings()) {
		missing = append(missing, "debian-archive-keyring")
	}
	root := os.Geteuid() == 0
	if !root {
		if _, err := exec.LookPath("newuidmap"); err != nil {
			missing = append(missing, "uidmap")
		}
	}
	if len(missing) > 0 {
		list := strings.Join(missing, " ")
		return runner{}, &api.Error{
			Kind:    api.KindState,
			Message: "cannot build from the Debian archive: this machine lacks " + strings.Join(missing, ", "),
			Hint:    "sudo apt-get install " + list,
		}
	}
	if root {
		return rootRunner(ctx), nil
	}
	if why := probe(ctx, "mmdebstrap", "--unshare-helper", "true"); why != "" {
		if err := ctx.Err(); err != nil {
			return runner{}, fmt.Errorf("cannot build from the Debian archive: %w", err)
		}
		return runner{}, noUserNamespaces(why)
	}
	return runner{
		mode:   []string{"--mode=unshare"},
		remove: []string{"mmdebstrap", "--unshare-helper", "rm", "-rf", "--one-file-system", "--"},
	}, nil
}

// rootRunner needs no user namespace, but takes namespaces of mounts and
// processes where it can, so that whatever happens no mount stays.
func rootRunner(ctx context.Context) runner {
	run := runner{
		mode:   []string{"--mode=root"},
		remove: []string{"rm", "-rf", "--one-file-system", "--"},
	}
	prefix := []string{"unshare", "--mount", "--pid", "--fork", "--mount-proc"}
	if probe(ctx, append(prefix, "true")...) == "" {
		run.prefix = prefix
	} else {
		// A container that may not mount: packages have to do without /proc.
		run.mode = append(run.mode, "--skip=check/canmount")
	}
	return run
}

// probe runs a command that should do nothing and says what it complains of.
func probe(ctx context.Context, argv ...string) string {
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Dir = "/"
	cmd.WaitDelay = time.Second
	var said excerpt.Writer
	cmd.Stdout, cmd.Stderr = &said, &said
	err := cmd.Run()
	if err == nil {
		return ""
	}
	return cmp.Or(strings.TrimPrefix(said.LastLine(), "E: "), err.Error())
}

// noUserNamespaces explains a machine where users may not make user
// namespaces, by what it says about itself.
func noUserNamespaces(why string) error {
	err := &api.Error{
		Kind:    api.KindState,
		Message: "cannot build from the Debian archive: this user cannot make user namespaces: " + why,
	}
	name := os.Getenv("USER")
	if name == "" {
		name = "$USER"
	}
	const proc = "/proc/sys/"
	switch {
	case readSysctl(proc+"user/max_user_namespaces") == "0":
		err.Hint = "allow them, then try again: sudo sysctl user.max_user_namespaces=15000"
	case readSysctl(proc+"kernel/unprivileged_userns_clone") == "0":
		err.Hint = "allow them, then try again: sudo sysctl kernel.unprivileged_userns_clone=1"
	case !hasSubIDs("/etc/subuid") || !hasSubIDs("/etc/subgid"):
		err.Hint = "give yourself subordinate ids, then try again: sudo usermod --add-subuids 100000-165535 --add-subgids 100000-165535 " + name
	case readSysctl(proc+"kernel/apparmor_restrict_unprivileged_userns") == "1":
		err.Hint = "AppArmor forbids them; allow them while the image is built, then try again: sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0"
	default:
		err.Hint = "find out what stops this command: mmdebstrap --unshare-helper true"
	}
	return err
}

func readSysctl(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return "" // this kernel has no such switch
	}
	return strings.TrimSpace(string(data))
}

// hasSubIDs says whether a file as of subuid(5) has a line for this user.
func hasSubIDs(path string) bool {
	data, err := os.ReadFile(path)
	if err != nil {
		return false
	}
	uid := strconv.Itoa(os.Getuid())
	name := os.Getenv("USER")
	for line := range strings.Lines(string(data)) {
		owner, _, _ := strings.Cut(line, ":")
		if owner == uid || owner == name {
			return true
		}
	}
	return false
}

func anyExists(paths []string) bool {
	for _, path := range paths {
		if _, err := os.Stat(path); err == nil {
			return true
		}
	}
	return false
}

// ansi are terminal escapes, which some tools print even into a pipe.
var ansi = regexp.MustCompile("\x1b\\[[0-9;]*[A-Za-z]")
