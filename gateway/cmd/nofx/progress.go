package main

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"nofx.dev/gateway/api"
)

// progress is the state of a run as known from its events.
type progress struct {
	run   api.Run
	steps []api.Step
	gates []api.Gate
	index map[api.StepID]int
	seq   int64                   // of the last event that the run was read with
	tails map[api.StepID][]string // the last lines of logs, of steps that failed
}

func newProgress(d api.RunDetail) *progress {
	p := &progress{run: d.Run, steps: d.Steps, gates: d.Gates, index: make(map[api.StepID]int, len(d.Steps))}
	for i, s := range d.Steps {
		p.index[s.ID] = i
	}
	p.seq, _ = strconv.ParseInt(d.StreamCursor, 10, 64) // watchEvents refuses another form
	return p
}

// apply updates p by one event and reports whether the run must be read again, because the
// event does not have all facts: gates have more members than a status, and only the run
// names the signal that a step waits for. An event that the run was read with changes
// nothing.
func (p *progress) apply(e api.Event) (stale bool) {
	if e.Seq <= p.seq {
		return false
	}
	var data struct {
		To           string            `json:"to"`
		Attempt      *int              `json:"attempt"`
		Reason       *string           `json:"reason"`
		FailureClass *api.FailureClass `json:"failure_class"`
		At           *time.Time        `json:"at"` // end of a wait
	}
	noun, _, _ := strings.Cut(e.Type, ".")
	if err := json.Unmarshal(e.Data, &data); err != nil || data.To == "" {
		return noun == "gate"
	}
	switch noun {
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
		s.Status, s.Reason, s.FailureClass = api.StepStatus(data.To), data.Reason, data.FailureClass
		s.WaitUntil, s.SignalKey = nil, nil
		switch s.Status {
		case api.StepStatusRetrying:
			s.ReadyAt = data.At
		case api.StepStatusWaiting:
			s.WaitUntil, stale = data.At, s.Tool == "signal"
		}
		if data.Attempt != nil {
			s.Attempt = *data.Attempt
		}
		if s.Status == api.StepStatusRunning {
			s.Attempts++
			if s.StartedAt == nil {
				s.StartedAt = &e.At
			}
		}
		s.FinishedAt = nil
		if settled(s.Status) {
			s.FinishedAt = &e.At
		}
	case "gate":
		return true
	}
	return stale
}

func ended(s api.RunStatus) bool {
	return s == api.RunStatusSucceeded || s == api.RunStatusFailed || s == api.RunStatusCancelled
}

func settled(s api.StepStatus) bool {
	return slices.Contains([]api.StepStatus{api.StepStatusSucceeded, api.StepStatusFailed, api.StepStatusSkipped, api.StepStatusCancelled}, s)
}

// endedError is the end of a watched run, or of a step whose log was followed, that
// did not succeed.
type endedError struct{ what string }

func (e endedError) Error() string { return e.what }

// watch shows the progress of a run until it ends.
func (a *app) watch(ctx context.Context, c *api.Client, runID string) error {
	var raw []byte
	read := func() (*progress, string, error) {
		var d api.RunDetail
		var err error
		d, raw, err = call[api.RunDetail](c.GetRun(ctx, runID))
		return newProgress(d), d.StreamCursor, err
	}
	p, after, err := read()
	if err != nil {
		return err
	}
	if a.json && ended(p.run.Status) { // no event reports it
		if err := a.printJSON(strings.TrimRight(string(raw), "\n")); err != nil {
			return err
		}
	}
	v := a.newView(p)
	if !ended(p.run.Status) {
		v.standstill(a.unserved(ctx, c, p.steps))
		stop := a.lookOn(ctx, v.note, func(ctx context.Context) error {
			lines, err := a.standstillOf(ctx, c, runID)
			if err == nil {
				v.standstill(lines)
			}
			return err
		})
		err = a.watchEvents(ctx, c, p, after, v, read)
		stop()
	}
	if err == nil {
		var last *progress // the run has facts that no event has, such as the reason
		if last, _, err = read(); err == nil {
			*p = *last
			if p.run.Status == api.RunStatusFailed && !a.json {
				p.tails = tails(ctx, c, p.steps)
			}
		}
	}
	if endErr := v.end(p); err == nil {
		err = endErr
	}
	if ctx.Err() != nil {
		fmt.Fprintf(a.errOut, "\nstopped watching; the run continues: %s run watch %s\n", a.self(), p.run.ID)
		return ctx.Err()
	}
	if err == nil && p.run.Status != api.RunStatusSucceeded {
		err = endedError{"the run ended " + string(p.run.Status)}
	}
	return err
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
