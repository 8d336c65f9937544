// Package undo takes back the steps of an operation that fails in its middle.
package undo

import (
	"errors"
	"slices"
)

// Stack holds what takes back the steps done so far. The zero value is ready.
// It is not safe for concurrent use.
type Stack struct {
	steps []func() error
}

// Add pushes what takes back the step just done.
func (s *Stack) Add(step func() error) { s.steps = append(s.steps, step) }

// Run takes everything back, last step first. Every step is run whatever the
// others return; their errors are joined. Afterwards the stack is empty.
func (s *Stack) Run() error {
	var errs []error
	for _, step := range slices.Backward(s.steps) {
		errs = append(errs, step())
	}
	s.steps = nil
	return errors.Join(errs...)
}

// OnError runs the stack if *err is not nil, and joins to it what goes wrong.
// It is meant to be deferred.
func (s *Stack) OnError(err *error) {
	if *err != nil {
		*err = errors.Join(*err, s.Run())
	}
}
