package main

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"nofx.dev/gateway/api"
)

// progress is a run as far as its events have told.
type progress struct {
	run   api.Run
	steps []api.Step
	gates []api.Gate
	index map[api.StepID]int
}

func newProgress(d api.RunDetail) *progress {
	p := &progress{run: d.Run, steps: d.Steps, gates: d.Gates, index: make(map[api.StepID]int, len(d.Steps))}
	for i, s := range d.Steps {
		p.index[s.ID] = i
	}
	return p
}

// apply moves p on by one event and reports whether the event told too little,
// so that the run must be read anew: gates have more to them than a status.
func (p *progress) apply(e api.Event) (stale bool) {
	var data struct {
		To      string `json:"to"`
		Attempt *int   `json:"attempt"`
	}
	if err := json.Unmarshal(e.Data, &data); err != nil || data.To == "" {
		return false
	}
	switch noun, _, _ := strings.Cut(e.Type, "."); noun {
	case "run":
		p.run.Status = api.RunStatus(data.To)
		if p.run.StartedAt == nil && p.run.Status == api.RunStatusRunning {
			p.run.StartedAt = &e.At
		}
		p.run.FinishedAt = nil
		if ended(p.run.Status) {
			p.run.FinishedAt = &e.At
		}
	case "step":
		i, ok := p.index[deref(e.StepID)]
		if !ok {
			return true
		}
		s := &p.steps[i]
		s.Status = api.StepStatus(data.To)
		if data.Attempt != nil {
			s.Attempt = *data.Attempt
		}
		if s.StartedAt == nil && s.Status == api.StepStatusRunning {
			s.StartedAt = &e.At
		}
		s.FinishedAt = nil
		if settled(s.Status) {
			s.FinishedAt = &e.At
		}
	case "gate":
		return true
	}
	return false
}

func ended(s api.RunStatus) bool {
	return s == api.RunStatusSucceeded || s == api.RunStatusFailed || s == api.RunStatusCancelled
}

func settled(s api.StepStatus) bool {
	return slices.Contains([]api.StepStatus{api.StepStatusSucceeded, api.StepStatusFailed, api.StepStatusSkipped, api.StepStatusCancelled}, s)
}

// hint tells how to decide a gate, if it waits for a person.
func hint(g api.Gate, self string) []string {
	if g.Status != api.GateStatusPending || g.Kind != api.GateKindManual {
		return nil
	}
	line := fmt.Sprintf("%s waits for a decision: %s", clean(g.Name), clean(deref(g.Message)))
	if g.ExpiresAt != nil {
		line += " (until " + clock(g.ExpiresAt) + ")"
	}
	if wanted := deref(g.Quorum); wanted > 1 {
		line += fmt.Sprintf(", %d of %d approvals given", len(g.Approvals), wanted)
	}
	return []string{line,
		fmt.Sprintf("  %s gate approve %s", self, g.ID),
		fmt.Sprintf("  %s gate reject %s --reason '…'", self, g.ID)}
}

func (p *progress) hints(self string) []string {
	var lines []string
	for _, g := range p.gates {
		lines = append(lines, hint(g, self)...)
	}
	return lines
}

// failures tell which steps failed, why, and where to read on.
func (p *progress) failures(self string) []string {
	var lines []string
	for _, s := range p.steps {
		if s.Status != api.StepStatusFailed {
			continue
		}
		line := fmt.Sprintf("%s failed (%s)", clean(s.Name), deref(s.FailureClass))
		if s.Reason != nil {
			line += ": " + clean(*s.Reason)
		}
		lines = append(lines, line)
		if s.Attempt > 0 {
			lines = append(lines, fmt.Sprintf("  %s logs %s", self, s.ID))
		}
		for _, g := range p.gates {
			if g.StepID == s.ID && g.Status != api.GateStatusPending {
				lines = append(lines, fmt.Sprintf("  %s gate show %s", self, g.ID))
			}
		}
	}
	return lines
}

// endedError is the end of a watched run that did not succeed.
type endedError struct{ status api.RunStatus }

func (e endedError) Error() string { return "the run ended " + string(e.status) }

// watch shows the progress of a run until it ends.
func (a *app) watch(ctx context.Context, c *api.Client, runID string) error {
	read := func() (*progress, string, error) {
		d, _, err := call[api.RunDetail](c.GetRun(ctx, runID))
		return newProgress(d), d.StreamCursor, err
	}
	p, after, err := read()
	if err != nil {
		return err
	}
	v := a.newView(p)
	if !ended(p.run.Status) {
		a.noteUnserved(ctx, c, p, v)
		err = a.watchEvents(ctx, c, p, after, v, read)
	}
	if err == nil {
		var last *progress // the row knows what no event tells, such as the reason
		if last, _, err = read(); err == nil {
			*p = *last
		}
	}
	if endErr := v.end(p); err == nil {
		err = endErr
	}
	if ctx.Err() != nil {
		fmt.Fprintf(a.errOut, "\nstopped watching; the run goes on: %s run watch %s\n", a.self(), p.run.ID)
		return ctx.Err()
	}
	if err == nil && p.run.Status != api.RunStatusSucceeded {
		err = endedError{p.run.Status}
	}
	return err
}

// noteUnserved says that steps may be ready for long, where nobody takes any. It is
// asked once, when the watch begins, and whoever may not ask is told nothing.
func (a *app) noteUnserved(ctx context.Context, c *api.Client, p *progress, v view) {
	if !slices.ContainsFunc(p.steps, func(s api.Step) bool { return s.Status == api.StepStatusReady }) {
		return
	}
	page, _, err := call[api.QueuePage](c.ListQueues(ctx))
	if err != nil {
		return
	}
	for _, q := range page.Items {
		switch {
		case q.Depth.Ready == 0:
		case q.Paused:
			v.note("queue %s is paused since %s: %d wait in it", q.Name, clock(q.PausedAt), q.Depth.Ready)
		case q.PausedForAll:
			v.note("queue %s is paused for all tenants: %d wait in it", q.Name, q.Depth.Ready)
		case q.Workers == 0:
			v.note("no worker serves queue %s: %d wait in it", q.Name, q.Depth.Ready)
		}
	}
}

// watchEvents follows the events of a run after a cursor to its terminal event.
func (a *app) watchEvents(ctx context.Context, c *api.Client, p *progress, after string, v view,
	read func() (*progress, string, error)) error {
	renew := func() error {
		now, _, err := read()
		if err == nil {
			*p = *now
		}
		return err
	}
	seq, err := strconv.ParseInt(after, 10, 64)
	if err != nil {
		return fmt.Errorf("stream_cursor of run %s: %w", p.run.ID, err)
	}
	feed := &eventFeed{dense: true, seq: seq,
		event: func(e api.Event, raw string) error {
			if p.apply(e) {
				if err := renew(); err != nil {
					return err
				}
			}
			return v.event(p, e, raw)
		},
		gap: func(string) error { return renew() },
	}
	s := a.streamOf(runEvents(c, p.run.ID, nil))
	s.note = v.note
	return s.follow(ctx, after, feed.handle)
}
