package cli

import (
	"context"
	"errors"
	"sync"

	"banger/internal/api"
	"banger/internal/progress"
)

// atOnce bounds how many VMs of one command are worked on side by side.
const atOnce = 16

// several does the same to several VMs side by side. Each one done is written
// to stdout by name; each failure is told, and makes the status a failure
// without stopping the others.
func (a *app) several(ctx context.Context, refs []string, do func(ctx context.Context, ref string, report progress.Func) (name string, err error)) error {
	refs = unique(refs)
	report, end := a.progress()
	defer end()
	if len(refs) == 1 {
		name, err := do(ctx, refs[0], report)
		end()
		if err != nil {
			return err
		}
		return a.writeLines(name)
	}

	var mu sync.Mutex
	failed, usageOnly := false, true
	var interrupted error
	slots := make(chan struct{}, atOnce)
	var group sync.WaitGroup
	for _, ref := range refs {
		group.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			name, err := do(ctx, ref, func(event progress.Event) {
				event.Text = ref + ": " + event.Text
				report(event)
			})
			mu.Lock()
			defer mu.Unlock()
			end()
			if err == nil {
				err = a.writeLines(name)
			}
			if err == nil {
				return
			}
			failed = true
			if _, ok := errors.AsType[*interruptedError](err); ok {
				interrupted = err
				return
			}
			hint := ""
			answered, ok := errors.AsType[*api.Error](err)
			if ok {
				hint = answered.Hint
			}
			usageOnly = usageOnly && ok && answered.Kind == api.KindUsage
			a.complain(err.Error(), hint)
		})
	}
	group.Wait()
	switch {
	case interrupted != nil:
		return interrupted
	case failed && usageOnly:
		return &exitError{exitUsage}
	case failed:
		return &exitError{exitFailure}
	}
	return nil
}

// unique drops what is there already and keeps the order.
func unique(items []string) []string {
	seen := make(map[string]bool, len(items))
	var kept []string
	for _, item := range items {
		if !seen[item] {
			seen[item] = true
			kept = append(kept, item)
		}
	}
	return kept
}
