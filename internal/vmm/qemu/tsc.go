package qemu

import (
	"context"
	"math"
	"time"
)

// tscMeasure is over how long the counter is measured. Reading both clocks
// takes well under 1 us, so the error is some 20 parts in a million at most.
const tscMeasure = 50 * time.Millisecond

type tscSample struct {
	ticks uint64
	at    time.Time
}

// sampleTSC reads both clocks at the same moment: the reading with the least
// time around it is the one that was not interrupted.
func sampleTSC() tscSample {
	var best tscSample
	shortest := time.Duration(math.MaxInt64)
	for range 8 {
		before := time.Now()
		ticks := readTSC()
		if took := time.Since(before); took < shortest {
			shortest = took
			best = tscSample{ticks: ticks, at: before.Add(took / 2)}
		}
	}
	return best
}

// measureTSC returns the rate of the host's time stamp counter in kHz, 0 where
// there is none that counts.
func measureTSC(ctx context.Context) (uint64, error) {
	start := sampleTSC()
	if start.ticks == 0 {
		return 0, nil
	}
	timer := time.NewTimer(tscMeasure)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
	return rate(start, sampleTSC()), nil
}

func rate(from, to tscSample) uint64 {
	elapsed := to.at.Sub(from.at)
	if to.ticks <= from.ticks || elapsed <= 0 {
		return 0
	}
	return uint64(math.Round(float64(to.ticks-from.ticks) / float64(elapsed) * 1e6))
}
