package main

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"time"
)

// times are durations of the same thing.
type times []time.Duration

func (t times) p50() time.Duration { return percentile(t, 50) }
func (t times) p99() time.Duration { return percentile(t, 99) }

// percentile is the smallest that p percent are not above.
func percentile[T cmp.Ordered](all []T, p int) T {
	return slices.Sorted(slices.Values(all))[max(0, (len(all)*p+99)/100-1)]
}

// unit is how a value is written.
type unit string

const (
	milliseconds unit = "%.1f ms"
	seconds      unit = "%.2f s"
	mebibytes    unit = "%.1f MiB"
	ratio        unit = "%.2f"
)

// report is what was measured.
type report struct {
	rows  []string
	bare  []string  // the command line of the bare boot
	pairs []float64 // each cold run divided by the bare boot before it
	qemu  string    // its version
	load  float64   // of the machine before anything was measured
}

func newReport(ctx context.Context) (*report, error) {
	version, err := exec.CommandContext(ctx, "qemu-system-x86_64", "--version").Output()
	if err != nil {
		return nil, fmt.Errorf("cannot ask QEMU for its version: %w", err)
	}
	loads, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return nil, err
	}
	r := &report{}
	r.qemu, _, _ = strings.Cut(string(version), "\n")
	_, err = fmt.Sscan(string(loads), &r.load)
	return r, err
}

// add notes a value, and whether it keeps the limit if that is not zero.
func (r *report) add(what string, unit unit, value, limit float64) {
	goal, met := "", ""
	if limit != 0 {
		goal, met = "at most "+fmt.Sprintf(string(unit), limit), "no"
		if value <= limit {
			met = "yes"
		}
	}
	row := fmt.Sprintf("| %s | %s | %s | %s |", what, fmt.Sprintf(string(unit), value), goal, met)
	r.rows = append(r.rows, row)
	fmt.Fprintln(os.Stderr, row)
}

const text = `# Performance

Written by ` + "`make bench`" + `, which measures all of it in one run, on real VMs, with an instance of banger of its own. On another machine, or a
busy one, other figures come out: run it on yours.

| measured | value | goal | met |
|---|---|---|---|
%s

%d CPUs (%s); %s, %s; load average before the first measurement: %.1f; %s.%s

A cold run is everything: the VM is created, booted, used and deleted, and the prompt is back. The bare boot is the least that it takes
by hand: the same kernel and image on the same machine, a busybox init that mounts them with a writable layer in memory, and in the
initramfs the files that ssh needs. It lasts from the start of QEMU to the exit of ` + "`ssh ... true`" + `; nothing is created or deleted. The
two take turns. Each cold run divided by the bare boot just before it: %s. The bare boot's command:

    %s

The container image has the files of ` + "`debian-bookworm`" + ` in an OCI layout of three gzip layers. umoci unpacks them into a directory that mke2fs
makes a file system of; what banger makes is verified, stored and synced as well. The two take turns, too.
`

func (r *report) markdown() string {
	accelerator := "emulation (TCG)"
	if slices.Contains(r.bare, "kvm") {
		accelerator = "KVM"
	}
	pairs := make([]string, len(r.pairs))
	for i, pair := range r.pairs {
		pairs[i] = fmt.Sprintf(string(ratio), pair)
	}
	command := strings.Join(quoted(r.bare), " ")
	command = directories.ReplaceAllString(command, "$1")
	busy := ""
	if cpus := runtime.NumCPU(); r.load > float64(cpus) {
		busy = "\n**The machine was busy with other work: the figures are those of waiting for a CPU.**"
	}
	return fmt.Sprintf(text, strings.Join(r.rows, "\n"), runtime.NumCPU(), cpuModel(), r.qemu, accelerator, r.load, time.Now().UTC().Format(time.DateOnly), busy,
		strings.Join(pairs, ", "), command)
}

// directories are those before a file's name.
var directories = regexp.MustCompile(`([ =:])/[^ ,]*/`)

// quoted is a command line as a shell takes it.
func quoted(args []string) []string {
	var all []string
	for _, arg := range args {
		if strings.ContainsAny(arg, " ;$'\"") {
			arg = "'" + strings.ReplaceAll(arg, "'", `'\''`) + "'"
		}
		all = append(all, arg)
	}
	return all
}

func cpuModel() string {
	data, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "unknown processor"
	}
	for line := range strings.Lines(string(data)) {
		if rest, ok := strings.CutPrefix(line, "model name"); ok {
			return strings.TrimLeft(strings.TrimSpace(rest), ": ")
		}
	}
	return "unknown processor"
}
