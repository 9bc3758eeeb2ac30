package step

import (
	"context"
	"errors"
	"time"

	"github.com/riverqueue/river"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/job"
	"nofx.dev/shared/postgres"
	"nofx.dev/worker/internal/pause"
)

// admit reports whether the step of a wake-up may be claimed. While storage is away
// it holds a step that needs bytes. A worker that drains does not: the job ends, and
// the sweeper wakes again for a step that is ready without one, as it does when the
// step has been held for long, so that another worker may take it.
func (r *Runner) admit(ctx context.Context, j *river.Job[job.Step]) (bool, error) {
	back := r.storage.Away()
	if back == nil {
		return true, nil
	}
	tool, err := r.db.StepTool(ctx, j.Args.TenantID, j.Args.StepID)
	if err != nil || rowOf(tool).Waits {
		return err == nil, err
	}
	select {
	case <-back:
		return true, nil
	case <-r.drain.told:
		return false, nil
	case <-ctx.Done():
		return false, context.Cause(ctx)
	}
}

// persist stores by record what a tool came to. While storage or the database is
// away it does so again, since the tool must not run again for that, until the lease is
// lost, the worker drains or the budget is used up. Once there was a failure, record
// gets a context that ends when the worker drains.
func (a *attempt) persist(ctx, toolCtx context.Context, record func(context.Context) (postgres.Finish, error)) (postgres.Finish, error) {
	f, err := record(ctx)
	for backoff := 100 * time.Millisecond; errors.Is(err, fault.Unavailable); backoff = min(2*backoff, 5*time.Second) {
		left := a.budgetLeft()
		if left <= 0 {
			return f, err
		}
		a.storage.Note(err)
		a.log.WarnContext(ctx, "save is tried again", "error", err)
		a.awaitStorage(toolCtx, min(pause.Jitter(backoff, 0.5), left), left)
		if toolCtx.Err() != nil {
			return f, context.Cause(toolCtx)
		}
		if f, err = record(toolCtx); err != nil && toolCtx.Err() != nil {
			return f, context.Cause(toolCtx)
		}
	}
	return f, err
}

// awaitStorage waits for least, and for storage if that is away, but for most at the
// most and no longer than ctx.
func (a *attempt) awaitStorage(ctx context.Context, least, most time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	if pause.For(ctx, least) != nil {
		return
	}
	if back := a.storage.Away(); back != nil {
		select {
		case <-back:
		case <-ctx.Done():
		}
	}
}

// budgetLeft returns how long this attempt may go on in spite of failures of the
// infrastructure, of which there was one just now. Time counts from the first failure
// of the step on; what its tool took is not failure.
func (a *attempt) budgetLeft() time.Duration {
	if a.failedAt.IsZero() {
		a.failedAt = time.Now()
	}
	left := a.budget - time.Since(a.failedAt)
	if since := a.claim.FailingSince; since != nil {
		left -= a.claim.ClaimedAt.Sub(*since)
	}
	return left
}
