package cli

import (
	"fmt"
	"io"
	"strconv"
	"sync"
	"time"
	"unicode/utf8"

	"golang.org/x/term"

	"banger/internal/progress"
	"banger/internal/size"
)

// redraw bounds how often the live line is drawn.
const redraw = 50 * time.Millisecond

// progressLine shows where long work is: one live line on a terminal, a plain
// line for each step elsewhere. Warnings stay. It is safe for concurrent use.
type progressLine struct {
	mu    sync.Mutex
	out   io.Writer
	live  bool
	width int
	step  string
	drawn time.Time
	shown bool // a live line is on the screen
}

// progress returns where to report to, and what ends the live line.
func (a *app) progress() (progress.Func, func()) {
	p := &progressLine{out: a.env.Err}
	if isTerminal(a.env.Err) && a.env.Getenv("TERM") != "dumb" {
		p.live = true
		p.width = 80
		if width, _, err := term.GetSize(int(file(a.env.Err).Fd())); err == nil && width > 0 {
			p.width = width
		}
	}
	return p.report, p.end
}

func (p *progressLine) report(event progress.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if event.Warning {
		p.clear()
		fmt.Fprintf(p.out, "warning: %s\n", oneLine(event.Text))
		return
	}
	fresh := event.Text != p.step
	p.step = event.Text
	if !p.live {
		if fresh && event.Text != "" {
			fmt.Fprintln(p.out, oneLine(event.Text))
		}
		return
	}
	if !fresh && time.Since(p.drawn) < redraw {
		return
	}
	p.drawn = time.Now()
	line := oneLine(event.Text) + amount(event)
	if utf8.RuneCountInString(line) >= p.width {
		line = string([]rune(line)[:p.width-1])
	}
	fmt.Fprintf(p.out, "\r\x1b[K%s", line)
	p.shown = true
}

// clear takes the live line off the screen. mu is held.
func (p *progressLine) clear() {
	if p.shown {
		fmt.Fprint(p.out, "\r\x1b[K")
		p.shown = false
	}
}

func (p *progressLine) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clear()
}

// amount writes how far a step is, if that is known.
func amount(event progress.Event) string {
	if event.Done <= 0 && event.Total <= 0 {
		return ""
	}
	write := func(n int64) string {
		if event.Bytes {
			return size.Human(n)
		}
		return strconv.FormatInt(n, 10)
	}
	if event.Total <= 0 {
		return " " + write(event.Done)
	}
	percent := min(event.Done, event.Total) * 100 / event.Total
	return fmt.Sprintf(" %d%% (%s of %s)", percent, write(event.Done), write(event.Total))
}
