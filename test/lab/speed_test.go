package lab

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// TestSpeed measures, which is no test: see docs/performance.md. A boot by hand
// and banger take turns in a host whose clock counts instructions, a nanosecond
// each. By any other clock most of what is measured is how fast QEMU translates
// code that it has not seen before, and what else this machine does.
func TestSpeed(t *testing.T) {
	if os.Getenv("BANGER_LAB_SPEED") == "" {
		t.Skip("NOT MEASURED: set BANGER_LAB_SPEED to the number of rounds, such as 5")
	}
	rounds, err := strconv.Atoi(os.Getenv("BANGER_LAB_SPEED"))
	if err != nil || rounds < 1 {
		t.Fatalf("BANGER_LAB_SPEED is %q, which is no number of rounds", os.Getenv("BANGER_LAB_SPEED"))
	}
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	l := open(ctx, t)
	l.options.counting = true
	for _, measured := range []struct{ image, command string }{
		{"tiny-1", "banger vm run --rm --image tiny-1 --vcpu 1 --memory 512M -- true"},
		{"debian-bookworm", "banger vm create --name measured --vcpu 1 --memory 512M"},
	} {
		var byHand, whole, quotients []float64
		for hung := 0; len(quotients) < rounds; {
			var a, b float64
			err := l.once(ctx, t, scenario{"Round", 4 * time.Minute, func(s *scene) {
				a, b = s.byHand(measured.image), s.seconds(measured.command)
				s.must("banger vm list -q | xargs -r banger vm delete -f")
			}})
			if err != nil {
				// With a clock like this QEMU now and then loses a write of
				// the guest's kernel, which waits for a lock for ever then.
				if hung++; hung > rounds || ctx.Err() != nil {
					t.Fatal(err)
				}
				shout(t, "A GUEST HUNG, the round is played again in a fresh host: %v", err)
				l.down()
				continue
			}
			byHand, whole, quotients = append(byHand, a), append(whole, b), append(quotients, b/a)
		}
		fmt.Fprintf(os.Stdout, "| `firecracker --config-file` by hand with `%s`, to the agent's first answer, p50 of %d | %.3f s |\n| `%s`, p50 of %d | %.3f s |\n| that divided by the boot before it, p50 (each: %.3f) | %.3f |\n",
			measured.image, rounds, median(byHand), measured.command, rounds, median(whole), quotients, median(quotients))
	}
}

func median(values []float64) float64 {
	return slices.Sorted(slices.Values(values))[len(values)/2]
}

// seconds runs a shell script as the ordinary user, and returns how long it took
// by the host's clock.
func (s *scene) seconds(script string) float64 {
	s.t.Helper()
	out := strings.Fields(s.must("began=$EPOCHREALTIME; " + script + " >/dev/null || exit; echo $began $EPOCHREALTIME"))
	began, err := strconv.ParseFloat(out[0], 64)
	if err != nil {
		s.fail("%q: %w", out, err)
	}
	ended, err := strconv.ParseFloat(out[1], 64)
	if err != nil {
		s.fail("%q: %w", out, err)
	}
	return ended - began
}

// byHand boots an image as somebody does who has Firecracker alone, and returns
// after how many seconds the agent answered.
func (s *scene) byHand(image string) float64 {
	s.t.Helper()
	s.tiny()
	s.must("banger vm create --no-start --name disks --image tiny-1")
	out := s.must(strings.ReplaceAll(`cd ~/.local/state/banger
		object() { echo $PWD/$1/objects/$(jq -r .digest $1/names/$2.json | tr : -); }
		export BANGER_TEST_FIRECRACKER=$(command -v firecracker) BANGER_TEST_IMAGE=$(object images @image@)/root.ext4
		kernel=$(object kernels debian-6.12)
		export BANGER_TEST_KERNEL=$kernel/vmlinux BANGER_TEST_MODULES=$kernel/modules.ext4 BANGER_TEST_INITRAMFS=/opt/lab/initramfs
		dir=$(banger vm show disks --json | jq -r .dir)
		export BANGER_TEST_OVERLAY=$dir/overlay.ext4 BANGER_TEST_WORK=$dir/work.ext4
		/opt/lab/firecracker.test -test.v -test.run '^TestRealBoot$'`, "@image@", image))
	for line := range strings.Lines(out) {
		if after, found := strings.CutPrefix(line, "answered after "); found {
			seconds, err := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(after), " s"), 64)
			if err != nil {
				s.fail("%q: %w", line, err)
			}
			return seconds
		}
	}
	s.fail("the boot by hand did not say how long it took: %s", out)
	return 0
}
