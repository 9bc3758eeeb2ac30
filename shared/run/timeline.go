package run

import "time"

// Timeline has the times of a run's steps, attempts and states, as of one moment.
type Timeline struct {
	Run  Run
	Rows []TimelineRow // in plan order
	At   time.Time     // the moment, by the database's clock
}

// TimelineRow is a step as a chart draws it.
type TimelineRow struct {
	Step     Step
	Attempts []TimedAttempt // oldest first
	Spans    []Span         // of the states that it was in, but for pending and final ones
}

// TimedAttempt is an attempt and how long its step had been ready when it began.
type TimedAttempt struct {
	Attempt
	Wait time.Duration
}

// Span is a time that a step spent in one state; End is nil while it is in it.
type Span struct {
	State State
	Start time.Time
	End   *time.Time
}

// Took returns how long an attempt ran, or has been running at now.
func (a TimedAttempt) Took(now time.Time) time.Duration {
	if a.EndedAt != nil {
		now = *a.EndedAt
	}
	return max(0, now.Sub(a.StartedAt))
}

// Waited returns how long the step was due without a worker: before each of its attempts
// and, if it is ready, until now.
func (r TimelineRow) Waited(now time.Time) (d time.Duration) {
	for _, a := range r.Attempts {
		d += a.Wait
	}
	if r.Step.State == Ready && r.Step.ReadyAt != nil {
		d += max(0, now.Sub(*r.Step.ReadyAt))
	}
	return d
}

// Ran returns how long its attempts took, all together.
func (r TimelineRow) Ran(now time.Time) (d time.Duration) {
	for _, a := range r.Attempts {
		d += a.Took(now)
	}
	return d
}
