// Bench measures banger on this machine with real VMs, in one run, and writes
// what it finds as Markdown: docs/performance.md is its output.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"banger/internal/image"
	"banger/internal/kernel"
	"banger/test/base"
)

func main() {
	runs := flag.Int("runs", 5, "cold boots of each kind")
	path := flag.String("o", "docs/performance.md", "`file` for the report")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := bench(ctx, *runs, *path)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// instance is a banger of its own.
type instance struct {
	banger string
	// stateHome is XDG_STATE_HOME, private everything else.
	stateHome, private string
	env                []string
}

func newInstance(dir, prefix string) (*instance, error) {
	stateHome, err := os.MkdirTemp(dir, "run-")
	if err != nil {
		return nil, err
	}
	private, err := os.MkdirTemp("/tmp", "be2e-") // short: sockets are in it
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(stateHome))
	}
	in := &instance{banger: filepath.Join(prefix, "bin", "banger"), stateHome: stateHome, private: private}
	in.env = append(os.Environ(), "HOME="+private, "XDG_STATE_HOME="+stateHome, "XDG_RUNTIME_DIR="+private,
		"XDG_CONFIG_HOME="+filepath.Join(private, "config"), "XDG_CACHE_HOME="+filepath.Join(stateHome, "cache"))
	return in, nil
}

// remove ends what a canceled run leaves, too.
func (in *instance) remove(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
	defer cancel()
	return errors.Join(in.end(ctx), os.RemoveAll(in.stateHome), os.RemoveAll(in.private))
}

func (in *instance) end(ctx context.Context) error {
	names, err := in.output(ctx, "vm", "list", "--json")
	if err == nil && strings.Contains(names, `"bench"`) {
		_, err = in.output(ctx, "vm", "delete", "-f", "bench")
	}
	_, stopErr := in.output(ctx, "daemon", "stop")
	return errors.Join(err, stopErr)
}

// output runs banger and returns what it says.
func (in *instance) output(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, in.banger, args...)
	cmd.Env = in.env
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("banger %s: %w\n%s", strings.Join(args, " "), err, stderr.String())
	}
	return string(out), nil
}

// timed returns how long each of n runs of banger takes.
func (in *instance) timed(ctx context.Context, n int, args ...string) (times, error) {
	var all times
	for range n {
		begun := time.Now()
		if _, err := in.output(ctx, args...); err != nil {
			return nil, err
		}
		all = append(all, time.Since(begun))
	}
	return all, nil
}

func bench(ctx context.Context, runs int, path string) (err error) {
	prefix, err := os.MkdirTemp("", "be2e-bin-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(prefix)) }()
	dir, err := base.Prepare(ctx, ".", prefix, os.Stderr)
	if err != nil {
		return err
	}
	in, err := newInstance(dir, prefix)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, in.remove(ctx)) }()
	if err := base.Provide(ctx, dir, in.stateHome); err != nil {
		return err
	}
	found, err := newReport(ctx)
	if err != nil {
		return err
	}
	for _, step := range []func(context.Context, *instance, *report) error{
		measureCLI,
		func(ctx context.Context, in *instance, r *report) error { return measureCold(ctx, in, r, runs) },
		measureWarm,
		measureImport,
		measureMany,
	} {
		if err := step(ctx, in, found); err != nil {
			return err
		}
	}
	report := found.markdown()
	fmt.Print(report)
	rest, err := elsewhere(path)
	if err != nil {
		return err
	}
	return os.WriteFile(path, []byte(report+rest), 0o644)
}

// elsewhere returns the sections of the last report that are not measured here.
func elsewhere(path string) (string, error) {
	const heading = "\n## Firecracker in the lab\n"
	last, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	_, section, found := strings.Cut(string(last), heading)
	if !found {
		return "", nil
	}
	return heading + section, nil
}

func measureCLI(ctx context.Context, in *instance, r *report) error {
	all, err := in.timed(ctx, 100, "version")
	if err != nil {
		return err
	}
	r.add("start of the CLI: `banger version`, p50 of 100", milliseconds, all.p50().Seconds()*1000, 15)
	return nil
}

// measureCold compares a whole life of a VM with a bare boot. They take turns,
// so that what else the machine does hits both.
func measureCold(ctx context.Context, in *instance, r *report, runs int) error {
	state := base.State(in.stateHome)
	images, err := image.Open(filepath.Join(state, "images"), image.Options{})
	if err != nil {
		return err
	}
	img, err := images.Get(base.Image)
	if err != nil {
		return err
	}
	krn, err := kernel.New(kernel.Options{Dir: filepath.Join(state, "kernels")}).Get(base.Kernel)
	if err != nil {
		return err
	}
	machine, err := in.machine(ctx)
	if err != nil {
		return err
	}
	bare, err := newBare(filepath.Join(in.private, "bare"), machine, krn, img)
	if err != nil {
		return err
	}
	// Once each beforehand: page cache, and what banger makes once.
	if _, err := bare.boot(ctx); err != nil {
		return err
	}
	run := []string{"vm", "run", "--rm", "--vcpu", strconv.Itoa(benchVCPU), "--memory", strconv.Itoa(benchMemoryMiB), "--", "true"}
	if _, err := in.output(ctx, run...); err != nil {
		return err
	}
	var bareTimes, runTimes times
	var ratios []float64
	for i := range runs {
		took, err := bare.boot(ctx)
		if err != nil {
			return err
		}
		one, err := in.timed(ctx, 1, run...)
		if err != nil {
			return err
		}
		bareTimes, runTimes = append(bareTimes, took), append(runTimes, one...)
		ratios = append(ratios, one[0].Seconds()/took.Seconds())
		fmt.Fprintf(os.Stderr, "cold %d/%d: bare boot %.2f s, vm run --rm %.2f s\n", i+1, runs, took.Seconds(), one[0].Seconds())
	}
	r.bare, r.pairs = bare.command, ratios
	r.add(fmt.Sprintf("bare QEMU boot to an answered ssh, p50 of %d", runs), seconds, bareTimes.p50().Seconds(), 0)
	r.add(fmt.Sprintf("cold `vm run --rm -- true`, typed to VM gone, p50 of %d", runs), seconds, runTimes.p50().Seconds(), 0)
	r.add("that run divided by the bare boot before it, p50", ratio, percentile(ratios, 50), 1.1)
	return nil
}

// machine returns the options with which banger starts QEMU that say what the
// machine is: the bare boot gets the same.
func (in *instance) machine(ctx context.Context) ([]string, error) {
	if _, err := in.output(ctx, "vm", "create", "--name", "bench"); err != nil {
		return nil, err
	}
	pid, err := in.number(ctx, ".vmm.pid", "vm", "show", "bench", "--json")
	if err != nil {
		return nil, err
	}
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", int(pid)))
	if err != nil {
		return nil, err
	}
	var machine []string
	args := strings.Split(string(line), "\x00")
	for i, arg := range args[:len(args)-1] {
		if slices.Contains([]string{"-machine", "-accel", "-cpu", "-append", "-global"}, arg) {
			machine = append(machine, arg, args[i+1])
		}
	}
	if len(machine) < 8 {
		return nil, fmt.Errorf("cannot make a bare machine out of %q", args)
	}
	_, err = in.output(ctx, "vm", "delete", "-f", "bench")
	return machine, err
}

func measureWarm(ctx context.Context, in *instance, r *report) error {
	// Unlike vm create, this returns once the guest has settled.
	if _, err := in.output(ctx, "vm", "run", "--name", "bench", "--", "true"); err != nil {
		return err
	}
	used, err := in.number(ctx, ".disk_used", "vm", "show", "bench", "--json")
	if err != nil {
		return err
	}
	r.add("disk used by a fresh VM that is up", mebibytes, used/(1<<20), 8)
	all, err := in.timed(ctx, 100, "vm", "exec", "bench", "--", "true")
	if err != nil {
		return err
	}
	r.add("`vm exec -- true`, p50 of 100", milliseconds, all.p50().Seconds()*1000, 60)
	r.add("`vm exec -- true`, p99 of 100", milliseconds, all.p99().Seconds()*1000, 0)
	begun := time.Now()
	if _, err := in.output(ctx, "vm", "stop", "bench"); err != nil {
		return err
	}
	r.add("`vm stop`", seconds, time.Since(begun).Seconds(), 10)
	_, err = in.output(ctx, "vm", "delete", "bench")
	return err
}

// number runs banger and picks a number of its JSON.
func (in *instance) number(ctx context.Context, path string, args ...string) (float64, error) {
	out, err := in.output(ctx, args...)
	if err != nil {
		return 0, err
	}
	jq := exec.CommandContext(ctx, "jq", path)
	jq.Stdin = strings.NewReader(out)
	value, err := jq.Output()
	if err != nil {
		return 0, fmt.Errorf("cannot read %s of banger %s: %w", path, strings.Join(args, " "), err)
	}
	return strconv.ParseFloat(strings.TrimSpace(string(value)), 64)
}
