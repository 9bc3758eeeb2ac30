package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"nofx.dev/gateway/api"
)

// board is a table on a terminal, redrawn in place after every event and once a second, so
// that its clocks advance.
type board struct {
	a      *app
	colour bool
	stop   chan struct{}
	done   sync.WaitGroup

	mu     sync.Mutex
	p      progress // a copy of its own: the ticker draws while events come
	status string   // about the connection
	still  []string // what keeps workers from the run
	drawn  int      // rows of the screen that the next drawing replaces
}

func newBoard(a *app, p *progress) *board {
	b := &board{a: a, colour: a.getenv("NO_COLOR") == "", stop: make(chan struct{}), p: p.clone()}
	b.draw() //nolint:errcheck // end returns the error of a terminal that is gone
	b.done.Go(func() {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				b.mu.Lock()
				b.draw() //nolint:errcheck // as above
				b.mu.Unlock()
			case <-b.stop:
				return
			}
		}
	})
	return b
}

func (p *progress) clone() progress {
	c := *p
	c.steps, c.gates = slices.Clone(p.steps), slices.Clone(p.gates)
	return c
}

func (b *board) event(p *progress, _ api.Event, _ string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.p, b.status = p.clone(), ""
	return b.draw()
}

func (b *board) note(format string, args ...any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.status = fmt.Sprintf(format, args...)
	b.draw() //nolint:errcheck // as above
}

func (b *board) standstill(lines []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.still = lines
	b.draw() //nolint:errcheck // as above
}

func (b *board) end(p *progress) error {
	close(b.stop)
	b.done.Wait()
	b.p, b.status, b.still = p.clone(), "", nil
	if err := b.draw(); err != nil {
		return err
	}
	_, err := fmt.Fprintln(b.a.out, strings.Join(summary(p, b.a.self(), b.a.now()), "\n"))
	return err
}

// draw replaces the last drawing. The caller holds mu, or no other goroutine runs.
func (b *board) draw() error {
	width, height := b.a.screen()
	lines := b.lines(width, height)
	var s strings.Builder
	if b.drawn > 0 {
		fmt.Fprintf(&s, "\x1b[%dA", b.drawn)
	}
	s.WriteString("\r\x1b[J") // to the end of the screen
	for _, line := range lines {
		s.WriteString(line)
		s.WriteByte('\n')
	}
	b.drawn = rows(lines, width)
	_, err := io.WriteString(b.a.out, s.String())
	return err
}

// lines returns the board for a screen of this size.
func (b *board) lines(width, height int) []string {
	now, r := b.a.now(), b.p.run
	done := 0
	for _, s := range b.p.steps {
		if settled(s.Status) {
			done++
		}
	}
	head := fmt.Sprintf("%s  %s  %d/%s  %s", r.ID, r.Status, done, count(len(b.p.steps), "step"), span(lasted(r.StartedAt, r.FinishedAt, now)))
	lines := []string{shorten(head, width), shorten(clean(r.Goal), width)}
	foot := b.foot(width, height)
	steps, rest := b.visible(max(height-len(lines)-rows(foot, width)-3, 3))
	nameWidth, toolWidth := 4, 4
	for _, s := range steps {
		nameWidth, toolWidth = max(nameWidth, cells(clean(s.Name))), max(toolWidth, cells(clean(s.Tool)))
	}
	nameWidth, toolWidth = min(nameWidth, 32), min(toolWidth, 24)
	lines = append(lines, shorten(fmt.Sprintf("  %s  %s  %-9s  %-5s  %s", pad("STEP", nameWidth), pad("TOOL", toolWidth), "STATUS", "TRY", "TIME"), width))
	for _, s := range steps {
		left := fmt.Sprintf("  %s  %s  ", pad(shorten(clean(s.Name), nameWidth), nameWidth), pad(shorten(clean(s.Tool), toolWidth), toolWidth))
		right := fmt.Sprintf("  %-5s  %s", tries(s), span(lasted(s.StartedAt, s.FinishedAt, now)))
		status := fmt.Sprintf("%-9s", s.Status)
		if line := left + status + right; cells(line) > width {
			lines = append(lines, shorten(line, width))
			continue
		}
		lines = append(lines, left+b.paint(s.Status, status)+right)
	}
	if rest != "" {
		lines = append(lines, shorten(rest, width))
	}
	return append(lines, foot...)
}

// foot returns the lines below the steps: what the run waits for, failures, and notes about
// queues and the connection. Commands are never cut, so that they can be copied; other
// lines are shown as far as the steps leave room.
func (b *board) foot(width, height int) (foot []string) {
	if !ended(b.p.run.Status) {
		hints := b.p.hints(b.a.self())
		for i, h := range hints {
			if i > 0 && rows(append(slices.Clone(foot), h.lines...), width) > height/2 {
				foot = append(foot, fmt.Sprintf("and %d more: %s run show %s", len(hints)-i, b.a.self(), b.p.run.ID))
				break
			}
			foot = append(foot, h.lines...)
		}
		for _, s := range b.p.steps {
			if line := trouble(s); line != "" && rows(foot, width) < height/2 {
				foot = append(foot, shorten(line, 2*width))
			}
		}
	}
	for _, line := range b.still {
		foot = append(foot, shorten(line, 3*width))
	}
	if b.status != "" {
		for line := range strings.SplitSeq(b.status, "\n") {
			foot = append(foot, shorten(clean(line), 3*width))
		}
	}
	return foot
}

// rows returns the number of screen rows that lines take. Painted lines take one.
func rows(lines []string, width int) int {
	n := 0
	for _, line := range lines {
		if strings.Contains(line, "\x1b") {
			n++
		} else {
			n += rowsOf(line, width)
		}
	}
	return n
}

// visible chooses the steps that are shown when not all fit: those under way
// and those that failed before those that wait or are done. They keep the order
// of the plan; rest counts the others.
func (b *board) visible(room int) (steps []api.Step, rest string) {
	if len(b.p.steps) <= room {
		return b.p.steps, ""
	}
	rank := func(s api.Step) int {
		return slices.Index([]api.StepStatus{api.StepStatusRunning, api.StepStatusWaiting, api.StepStatusRetrying, api.StepStatusFailed,
			api.StepStatusReady, api.StepStatusPending, api.StepStatusCancelled, api.StepStatusSkipped, api.StepStatusSucceeded}, s.Status)
	}
	byRank := slices.Clone(b.p.steps)
	slices.SortStableFunc(byRank, func(x, y api.Step) int { return rank(x) - rank(y) })
	steps = byRank[:room-1]
	counts := map[api.StepStatus]int{}
	for _, s := range byRank[room-1:] {
		counts[s.Status]++
	}
	var parts []string
	for _, status := range slices.Sorted(maps.Keys(counts)) {
		parts = append(parts, fmt.Sprintf("%d %s", counts[status], status))
	}
	slices.SortFunc(steps, func(x, y api.Step) int { return x.Idx - y.Idx })
	return steps, "  and " + strings.Join(parts, ", ")
}

// paint colours a status.
func (b *board) paint(s api.StepStatus, text string) string {
	colour := map[api.StepStatus]string{
		api.StepStatusSucceeded: "32", api.StepStatusFailed: "31", api.StepStatusRunning: "36",
		api.StepStatusWaiting: "33", api.StepStatusRetrying: "33", api.StepStatusReady: "36",
	}[s]
	if !b.colour || colour == "" {
		return text
	}
	return "\x1b[" + colour + "m" + text + "\x1b[0m"
}
