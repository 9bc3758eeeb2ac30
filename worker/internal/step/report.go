package step

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"go.opentelemetry.io/otel/trace"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/job"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/run"
	"nofx.dev/shared/telemetry"
)

// observeClaim notes in metrics and on the job's span what was claimed.
func (a *attempt) observeClaim(ctx context.Context) {
	c := a.claim
	which := "first"
	if c.Attempt > 1 || c.LostLeases > 0 || c.FailingSince != nil {
		which = "retry"
	}
	a.metrics.QueueWait.Observe(ctx, max(0, c.ClaimedAt.Sub(c.ReadyAt).Seconds()), rowOf(c.Tool).Queue, job.Step{}.Kind(), which)
	if c.LostAt != nil {
		a.metrics.Recovery.Observe(ctx, c.ClaimedAt.Sub(*c.LostAt).Seconds())
	}
	trace.SpanFromContext(ctx).SetAttributes(
		telemetry.AttemptKey.Int(c.Attempt), telemetry.FenceKey.Int64(c.Fence),
		telemetry.RunIDKey.String(run.RunID.Format(c.RunID)), telemetry.StepIDKey.String(run.StepID.Format(c.StepID)))
}

// outcomes are the label values for the outcomes of attempts.
var outcomes = map[string]string{
	"succeed": "succeeded", "fail": "failed", "retry": "retrying", "wait": "waiting", "interrupted": "interrupted",
}

// report writes the one log line of an attempt and its metrics.
func (a *attempt) report(ctx context.Context, f postgres.Finish, err error, took time.Duration) {
	args := []any{"step", a.claim.Name, "tool", a.claim.Tool, "ms", took.Milliseconds()}
	if err != nil {
		a.reportLost(ctx, err, took, args)
		return
	}
	outcome := outcomes[f.Outcome]
	if f.Outcome == "succeed" || f.Outcome == "fail" {
		a.metrics.StepsFinished.Inc(a.claim.Tool, outcome)
	}
	if f.FailureClass == run.ClassTimeout {
		outcome = "timeout"
	}
	a.metrics.StepDuration.Observe(ctx, took.Seconds(), a.claim.Tool, outcome)
	if f.Gate != nil && f.Gate.Event != "" {
		a.metrics.GateVerdicts.Inc(f.Gate.Name, string(verdicts[f.Gate.Event]))
	}
	if f.Reason != "" {
		args = append(args, "reason", f.Reason)
	}
	a.log.InfoContext(ctx, "step attempt", append(args, "outcome", outcome)...)
}

// reportLost does what report does for an attempt that nobody recorded: its lease went,
// or the database took nothing from it for as long as the lease could hold.
func (a *attempt) reportLost(ctx context.Context, err error, took time.Duration, args []any) {
	outcome, level := "cancelled", slog.LevelWarn
	if errors.Is(err, fault.Fenced) {
		// A person who cancels does this; of a lease that expired the sweeper warns.
		outcome, level = "fenced", slog.LevelInfo
		a.metrics.FencedWrites.Inc()
		telemetry.SetOutcome(ctx, "fenced")
	}
	a.metrics.StepDuration.Observe(ctx, took.Seconds(), a.claim.Tool, outcome)
	a.log.Log(ctx, level, "step attempt", append(args, "outcome", outcome, "kind", fault.KindOf(err), "error", err)...)
}

var verdicts = map[string]run.State{"pass": run.Passed, "fail": run.Failed, "error": run.Error}
