// Package progress is how long work says how far it is. Producers call a
// [Func]; who shows it, and where, is not theirs to know.
package progress

// Event is one thing to tell the user.
type Event struct {
	// Text says what is being done now, as a short phrase: "unpacking the
	// kernel". A new text begins a new step.
	Text string `json:"text"`
	// Done and Total count the step's units, bytes if Bytes is set; Total is
	// zero where the end is not known.
	Done  int64 `json:"done,omitempty"`
	Total int64 `json:"total,omitempty"`
	Bytes bool  `json:"bytes,omitempty"`
	// Warning marks a text that must be seen even where progress is not shown.
	Warning bool `json:"warning,omitempty"`
}

// Func takes an event. It does not block for long, may be called from any
// goroutine, and is never nil: use [Discard].
type Func func(Event)

// Discard drops every event.
func Discard(Event) {}

// Step reports the begin of a step.
func (f Func) Step(text string) { f(Event{Text: text}) }

// Warn reports something the user must see.
func (f Func) Warn(text string) { f(Event{Text: text, Warning: true}) }
