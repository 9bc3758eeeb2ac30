package main

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"nofx.dev/gateway/api"
)

// view shows the progress of a run. There are three: a board on a terminal,
// lines, and JSON.
type view interface {
	event(p *progress, e api.Event, raw string) error // after one event
	note(format string, args ...any)                  // about the connection
	standstill(lines []string)                        // what keeps workers from the run now
	end(p *progress) error                            // once, also when the watch was cut short
}

func (a *app) newView(p *progress) view {
	switch {
	case a.json:
		return &jsonView{news{app: a}}
	case a.screen == nil:
		v := &lineView{news: news{app: a}, told: map[string]bool{}}
		v.hint(p) //nolint:errcheck // what it waits for already; the next line tells of a terminal that is gone
		return v
	}
	return newBoard(a, p)
}

// jsonView prints every event as it came.
type jsonView struct{ news }

func (v *jsonView) event(_ *progress, e api.Event, raw string) error {
	return v.printEvent(e, raw, false)
}
func (v *jsonView) end(*progress) error { return nil }

// note prints something for people, on the error output.
func (a *app) note(format string, args ...any) {
	a.noting.Lock()
	defer a.noting.Unlock()
	fmt.Fprintf(a.errOut, format+"\n", args...)
}

// news notes each line of a list that is looked at again and again when it comes up.
type news struct {
	*app
	last []string
}

func (n *news) standstill(lines []string) {
	for _, line := range lines {
		if !slices.Contains(n.last, line) {
			n.note("%s", line)
		}
	}
	n.last = lines
}

// lookOn has do called every now and then, until ctx ends or the returned function is
// called, which waits for it. It notes when the gateway begins to fail it, which no
// stream may tell, and when it does so no more.
func (a *app) lookOn(ctx context.Context, note func(format string, args ...any), do func(context.Context) error) (stop func()) {
	if a.look == 0 {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	var looking sync.WaitGroup
	looking.Go(func() {
		tick := time.NewTicker(a.look)
		defer tick.Stop()
		for away := false; ; {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
			err := do(ctx)
			if was := away; ctx.Err() == nil {
				if away = unavailable(err); away && !was {
					note("the gateway is not available: %s; trying again", clean(err.Error()))
				} else if was && !away {
					note("the gateway answers again")
				}
			}
		}
	})
	return func() {
		cancel()
		looking.Wait()
	}
}

// lineView prints a line per change of status: for logs and pipes.
type lineView struct {
	news
	told map[string]bool // of what the hint was printed
}

func (v *lineView) event(p *progress, e api.Event, _ string) error {
	noun, status, _ := strings.Cut(e.Type, ".")
	subject := noun
	var data struct{ Gate, Reason string }
	_ = json.Unmarshal(e.Data, &data) // what is not there is not said
	if noun == "gate" {
		subject += " " + clean(data.Gate) + " of step"
	}
	if i, ok := p.index[deref(e.StepID)]; ok {
		subject += " " + clean(p.steps[i].Name)
		switch e.Type {
		case "step.running":
			status += " (" + tries(p.steps[i]) + ")"
		case "step.retrying":
			if at := p.steps[i].ReadyAt; at != nil {
				status += " at " + clock(at)
			}
		}
	}
	if data.Reason != "" && e.Type != "step.waiting" { // of that the hint says more
		status += ": " + clean(data.Reason)
	}
	switch noun {
	case "run", "step", "gate":
		if e.Type != "step.log" && e.Type != "step.progress" {
			fmt.Fprintf(v.out, "%s  %s %s\n", clock(&e.At), subject, status)
		}
	}
	return v.hint(p)
}

// hint prints how to go on, once for all that waits.
func (v *lineView) hint(p *progress) error {
	for _, h := range p.hints(v.self()) {
		if v.told[h.of] {
			continue
		}
		v.told[h.of] = true
		if _, err := fmt.Fprintln(v.out, strings.Join(h.lines, "\n")); err != nil {
			return err
		}
	}
	return nil
}

func (v *lineView) end(p *progress) error {
	for _, line := range summary(p, v.self(), v.now()) {
		fmt.Fprintln(v.out, line)
	}
	return nil
}

// summary returns the last lines about a run.
func summary(p *progress, self string, now time.Time) []string {
	r := p.run
	line := fmt.Sprintf("%s %s after %s", r.ID, r.Status, span(lasted(r.StartedAt, r.FinishedAt, now)))
	if r.Reason != nil {
		line += ": " + clean(*r.Reason)
	}
	lines := append([]string{line}, p.troubles(self)...)
	if ended(r.Status) {
		return append(lines, p.again(self)...)
	}
	for _, h := range p.hints(self) {
		lines = append(lines, h.lines...)
	}
	return lines
}
