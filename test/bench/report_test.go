package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestPercentile(t *testing.T) {
	t.Parallel()
	all := times{4, 1, 3, 2}
	if p50, p99 := all.p50(), all.p99(); p50 != 2 || p99 != 4 {
		t.Errorf("p50 %d, p99 %d", p50, p99)
	}
	if one := (times{time.Second}).p50(); one != time.Second {
		t.Errorf("p50 of one: %v", one)
	}
}

func TestReport(t *testing.T) {
	t.Parallel()
	r := &report{bare: []string{"qemu", "-append", "a b", "-kernel", "/some/where/vmlinux", "-serial", "file:/some/console"}, pairs: []float64{0.5, 1.25}, load: 1e6}
	r.add("kept", milliseconds, 15, 15)
	r.add("missed", ratio, 1.2, 1.1)
	r.add("told", seconds, 3, 0)
	text := r.markdown()
	for _, want := range []string{
		"| kept | 15.0 ms | at most 15.0 ms | yes |\n",
		"| missed | 1.20 | at most 1.10 | no |\n",
		"| told | 3.00 s |  |  |\n",
		"just before it: 0.50, 1.25.",
		"    qemu -append 'a b' -kernel vmlinux -serial file:console\n",
		"The machine was busy",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in:\n%s", want, text)
		}
	}
}

// What the report does not measure stays in its file.
func TestElsewhere(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "performance.md")
	if rest, err := elsewhere(path); err != nil || rest != "" {
		t.Errorf("no report: %q, %v", rest, err)
	}
	const section = "\n## Firecracker in the lab\n\nfast\n"
	for _, text := range []string{"# Performance\n\nfigures\n", "# Performance\n\nfigures\n" + section} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		rest, err := elsewhere(path)
		if err != nil || !strings.HasSuffix(text, rest) || strings.Contains(rest, "figures") || strings.Contains(text, section) != (rest == section) {
			t.Errorf("of %q: %q, %v", text, rest, err)
		}
	}
}
