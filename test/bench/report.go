package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"time"
)

// times are durations of the same thing.
type times []time.Duration

func (t times) p50() time.Duration { return t.percentile(50) }
func (t times) p99() time.Duration { return t.percentile(99) }

// percentile is the smallest that p percent are not above.
func (t times) percentile(p int) time.Duration {
	sorted := slices.Sorted(slices.Values(t))
	return sorted[max(0, (len(sorted)*p+99)/100-1)]
}

func milliseconds(d time.Duration) string {
	return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000)
}
func seconds(d time.Duration) string { return fmt.Sprintf("%.2f s", d.Seconds()) }

// report is what was measured.
type report struct {
	rows [][3]string
	qemu []string // of the bare boot
}

func (r *report) add(what, value, goal string) {
	r.rows = append(r.rows, [3]string{what, value, goal})
	fmt.Fprintf(os.Stderr, "%s: %s\n", what, value)
}

func (r *report) write(ctx context.Context, w io.Writer) error {
	version, err := exec.CommandContext(ctx, "qemu-system-x86_64", "--version").Output()
	if err != nil {
		return fmt.Errorf("cannot ask QEMU for its version: %w", err)
	}
	first, _, _ := strings.Cut(string(version), "\n")
	accelerator := "emulation (TCG)"
	if slices.Contains(r.qemu, "kvm") {
		accelerator = "KVM"
	}
	fmt.Fprintf(w, "| measured | value | goal |\n|---|---|---|\n")
	for _, row := range r.rows {
		fmt.Fprintf(w, "| %s | %s | %s |\n", row[0], row[1], row[2])
	}
	fmt.Fprintf(w, "\nMachine: %d CPUs, %s; %s, %s. Made by `make bench` on %s.\n", runtime.NumCPU(), cpuModel(), first, accelerator, time.Now().UTC().Format(time.DateOnly))
	_, err = fmt.Fprintf(w, "\nThe bare boot is the same kernel and image on a comparable machine, with the files that make it reachable in a RAM disk, and a busybox\ninit that mounts what banger's agent mounts:\n\n    %s\n", strings.Join(quoted(r.qemu), " "))
	return err
}

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
