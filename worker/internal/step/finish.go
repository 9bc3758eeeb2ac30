package step

import (
	"context"
	"errors"
	"time"

	"go.opentelemetry.io/otel/trace"

	"nofx.dev/shared/failpoint"
	"nofx.dev/shared/fault"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/run"
	"nofx.dev/worker/internal/pause"
	"nofx.dev/worker/internal/sieve"
)

// finish records the outcome. While the database does not answer it tries again
// for as long as the lease may hold; an attempt that was recorded without our
// learning of it is not recorded twice. An outcome that the database refuses for good
// becomes a failure that says so. If the job may go on, the same transaction takes a
// successor that became ready: that is the next attempt, and sent is when its lease
// was asked for.
func (a *attempt) finish(ctx context.Context, f *postgres.Finish) (next *attempt, sent time.Time, err error) {
	job := trace.SpanContextFromContext(ctx) // the attempts of one job are all under its span
	ctx, span := tracer().Start(ctx, "finish")
	defer span.End()
	f.Span = span.SpanContext()
	isRefusal := false // f says that the outcome was refused
	for backoff := 50 * time.Millisecond; ; backoff = min(2*backoff, time.Second) {
		next = &attempt{parts: a.parts, job: a.job, began: a.began}
		f.Chain = nil
		f.Reason = a.redactor.String(sieve.Clean(f.Reason)) // which may quote what the step did
		if f.Outcome == "succeed" && a.mayGoOn() {
			f.Chain = &postgres.Chain{Queue: a.job.Queue, JobID: a.job.ID, Span: job, Pre: next.begin}
		}
		var done postgres.Finished
		if err = a.leases.Fresh(ctx, a.claim); err == nil {
			sent = time.Now()
			f.Held = a.held.has(a.claim.RunID)
			if done, err = a.finishes.Call(ctx, a.claim.TenantID, *f); err == nil {
				err = done.Err
				a.held.note(a.claim.RunID, err)
			}
		}
		if err == nil {
			return a.finished(ctx, done, next), sent, failpoint.Hit("after_commit")
		}
		refused := !errors.Is(err, fault.Unavailable)
		if refused && (isRefusal || errors.Is(err, fault.Fenced) || ctx.Err() != nil) {
			return nil, sent, err
		}
		a.log.WarnContext(ctx, "finish is tried again", "refused", refused, "error", err)
		if refused {
			*f, isRefusal = a.unrecordable(*f, err), true
		}
		if err := pause.For(ctx, backoff); err != nil {
			return nil, sent, err
		}
	}
}

// unrecordable returns the failure in the place of an outcome that the database refuses for
// good. Nothing of the outcome is in it but what the attempt consumed.
func (a *attempt) unrecordable(f postgres.Finish, refusal error) postgres.Finish {
	why := "the database refused it"
	if e, ok := errors.AsType[*fault.Error](refusal); ok {
		why = e.Detail
	}
	a.saved = nil
	return postgres.Finish{
		Claim: a.claim, Span: f.Span, Outcome: "fail", FailureClass: run.ClassInvalid, Reason: "what it came to cannot be recorded: " + why,
		ExitCode: f.ExitCode, Usage: f.Usage,
	}
}

// turn is how long a job may go on with further steps while others may be waiting
// for its slot.
const turn = 100 * time.Millisecond

// mayGoOn reports whether the job may take a further step: not while the worker
// drains, the queue is paused or storage is away, nor when it has had its turn and all
// slots of the queue are taken, so that a long run does not keep one from others for
// ever.
func (a *attempt) mayGoOn() bool {
	spoiled := a.space != nil && a.space.Spoiled() // it is removed once the job has ended
	return !spoiled && !a.drain.begun.Load() && a.open(a.job.Queue) && a.storage.Away() == nil &&
		(!a.slots.full(a.job.Queue) || time.Since(a.began) < turn)
}

// finished notes what a recorded finish came to, and returns next if it was
// claimed.
func (a *attempt) finished(ctx context.Context, done postgres.Finished, next *attempt) *attempt {
	if a.saved != nil {
		a.space.Committed(a.saved)
	}
	if done.Ended != "" && !rowOf(a.claim.Tool).System {
		a.metrics.RunsFinished.Inc(string(done.Ended))
		a.metrics.RunDuration.Observe(ctx, done.After.Seconds(), string(done.Ended))
	}
	if done.Next == nil {
		return nil
	}
	next.claim = done.Next
	return next
}
