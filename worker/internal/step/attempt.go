package step

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/riverqueue/river"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/trace"

	"nofx.dev/shared/blob"
	"nofx.dev/shared/failpoint"
	"nofx.dev/shared/fault"
	"nofx.dev/shared/job"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/run"
	"nofx.dev/shared/telemetry"
	"nofx.dev/worker/internal/batch"
	"nofx.dev/worker/internal/checkpoint"
	"nofx.dev/worker/internal/sieve"
	"nofx.dev/worker/internal/snapshot"
	"nofx.dev/worker/internal/steplog"
	"nofx.dev/worker/internal/tool"
	"nofx.dev/worker/internal/workspace"
)

// errDraining ends a tool when the worker goes down.
var errDraining = errors.New("the worker is shutting down")

func tracer() trace.Tracer { return otel.Tracer("nofx.dev/worker/internal/step") }

// parts are what the attempts of a worker work with.
type parts struct {
	db          *postgres.DB
	blobs       *blob.Store
	checkpoints *checkpoint.Store
	spaces      *workspace.Pool
	tools       *tool.Box
	redactor    *telemetry.Redactor
	metrics     *telemetry.Metrics
	log         *slog.Logger

	claims   *batch.Batcher[postgres.Wake, postgres.Claimed]
	finishes *batch.Batcher[postgres.Finish, postgres.Finished]
	held     *heldRuns
	slots    *slots
	keeper   *keeper
	storage  *storage
	beacon   *beacon
	drain    *drain

	budget time.Duration // for a step to get over failures of the infrastructure
}

// attempt is one try at a step, from its claim to its finish.
type attempt struct {
	parts
	job   *river.Job[job.Step]
	began time.Time // when the job did, or the one that was going on with this step
	claim *postgres.Claim
	maker *checkpoint.Maker
	start *checkpoint.Start // nil while it is for join to make
	space *workspace.Space  // nil for tools that see no files
	saved *snapshot.Scan    // what of it the finish records

	failedAt time.Time // when the infrastructure failed it first; zero: it did not
}

// work runs the attempt that j wakes for, and then steps of the same run that
// its finish takes along. A stale wake-up is no error: the step has moved on, and
// the job has done its duty.
func (w *Worker) work(ctx context.Context, j *river.Job[job.Step]) error {
	w.metrics.WorkerSlots.Add(1, j.Queue, "used")
	defer w.metrics.WorkerSlots.Add(-1, j.Queue, "used")
	defer w.slots.take(j.Queue)()
	if ok, err := w.admit(ctx, j); !ok {
		return err
	}
	sent := time.Now()
	a := &attempt{parts: w.parts, job: j, began: sent}
	runID := runOf(j)
	claimed, err := w.claims.Call(ctx, j.Args.TenantID, postgres.Wake{
		Job: j.Args, JobID: j.ID, Span: trace.SpanContextFromContext(ctx), Pre: a.begin, Held: w.held.has(runID)})
	if err == nil {
		w.held.note(runID, claimed.Err)
	}
	switch {
	case err != nil:
		return err
	case claimed.Err != nil:
		return river.JobSnooze(snooze(j)) // the wake-up stays good, and its slot is for others
	case claimed.Claim == nil:
		return nil
	}
	defer w.evict(ctx)
	for a != nil {
		if a, sent, err = a.run(ctx, sent); err != nil {
			return err
		}
	}
	return nil
}

func (w *Worker) evict(ctx context.Context) {
	if err := w.spaces.Evict(); err != nil {
		w.log.WarnContext(ctx, "workspace clean-up", "error", err)
	}
}

// run takes the claimed attempt to its end. It returns the attempt at a successor
// that the finish claimed, and when that was sent.
func (a *attempt) run(ctx context.Context, sent time.Time) (*attempt, time.Time, error) {
	claim := a.claim
	ctx = telemetry.WithScope(ctx, telemetry.Scope{
		TenantID: run.TenantID.Format(claim.TenantID), RunID: run.RunID.Format(claim.RunID),
		StepID: run.StepID.Format(claim.StepID), Attempt: claim.Attempt,
	})
	a.observeClaim(ctx)

	ctx, lose := context.WithCancelCause(ctx)
	defer lose(nil)
	lease := a.keeper.hold(claim, sent, lose)
	defer a.keeper.release(lease)
	toolCtx, interrupt := context.WithCancelCause(ctx)
	defer interrupt(nil)
	defer a.drain.watch(interrupt)()

	if err := failpoint.Hit("after_claim"); err != nil {
		return nil, sent, err
	}
	began := time.Now()
	defer a.giveBack()
	var f postgres.Finish
	err := lease.alone(ctx)
	if err == nil {
		f, err = a.try(ctx, toolCtx)
	}
	var next *attempt
	if err == nil {
		next, sent, err = a.finish(ctx, &f)
	}
	a.report(ctx, f, err, time.Since(began))
	return next, sent, nil
}

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

// try does the step's work and says how the attempt ends. ctx ends with the
// lease, toolCtx also when the worker drains. The error is that the attempt does
// not count any more; every other failure is an outcome.
func (a *attempt) try(ctx, toolCtx context.Context) (postgres.Finish, error) {
	ctx, span := tracer().Start(ctx, "step "+a.claim.Tool, trace.WithAttributes(
		telemetry.StepNameKey.String(a.claim.Name), telemetry.ToolKey.String(a.claim.Tool)))
	defer span.End()
	toolCtx = trace.ContextWithSpan(toolCtx, span)

	f, err := a.outcome(ctx, toolCtx)
	var failure *tool.Failure
	switch {
	case err == nil:
	case ctx.Err() != nil:
		return f, context.Cause(ctx)
	case errors.Is(err, fault.Fenced):
		return f, err
	case errors.Is(err, errDraining):
		f, err = a.interrupted(ctx)
		if err != nil {
			return f, err
		}
	case errors.As(err, &failure):
		partial := f
		f = a.retry(failure.Class, failure.Reason, failure.RetryAfter)
		f.ExitCode, f.Usage = partial.ExitCode, partial.Usage
	default:
		f = a.failed(ctx, err)
	}
	span.SetAttributes(telemetry.OutcomeKey.String(f.Outcome))
	return f, nil
}

// failed is the outcome of an error that no tool made: of the database, of
// storage, of this machine. Its details are for the log.
func (a *attempt) failed(ctx context.Context, err error) postgres.Finish {
	var after time.Duration
	code, reason := "", "the worker could not do its part"
	if e, ok := errors.AsType[*fault.Error](err); ok {
		after, code, reason = e.RetryAfter, e.Code, e.Detail
	}
	_, lost := blob.Lost(err)
	level := slog.LevelWarn
	if !lost && classOf(err) != run.ClassInfrastructure {
		level = slog.LevelInfo // a mistake of the plan's, and told as the step's reason
	}
	a.log.Log(ctx, level, "step attempt", "error", err)
	if lost { // storage answers, and what it has lost does not come back
		return postgres.Finish{Claim: a.claim, Outcome: "fail", FailureClass: run.ClassInfrastructure, Reason: code + ": " + reason}
	}
	a.storage.note(err)
	return a.retry(classOf(err), reason, after)
}

// outcome brings the workspace in, puts earlier outputs into the inputs, runs the
// tool and saves what it left. The log is ended after that: it has the time of a
// save that is repeated. Beside an error of the tool it holds what the tool consumed.
func (a *attempt) outcome(ctx, toolCtx context.Context) (postgres.Finish, error) {
	c := a.claim
	if a.start == nil {
		if conflicts, err := a.join(ctx); err != nil {
			return postgres.Finish{}, a.corrupt(ctx, err)
		} else if conflicts != nil {
			return a.conflict(conflicts)
		}
	}
	if err := a.resolve(ctx); err != nil {
		return postgres.Finish{}, a.corrupt(ctx, err)
	}
	if outputs, err := a.waived(); err != nil {
		return postgres.Finish{}, err
	} else if outputs != nil {
		return a.succeeded(ctx, tool.Result{Outputs: outputs})
	}
	if rowOf(c.Tool).Files != run.NoFiles {
		if err := a.restore(ctx); err != nil {
			return postgres.Finish{}, a.corrupt(ctx, err)
		}
	}
	var log *steplog.Writer
	if !rowOf(c.Tool).Waits {
		log = a.openLog(ctx)
		defer a.closeLog(ctx, toolCtx, log)
	}
	if a.space != nil && len(a.space.Reset) > 0 {
		fmt.Fprintf(log, otherModes, "this step sees", a.space.Reset)
	}
	result, err := a.runTool(ctx, toolCtx, log)
	if err != nil {
		return postgres.Finish{ExitCode: result.ExitCode, Usage: result.Usage}, err
	}
	if err := failpoint.Hit("after_effect"); err != nil {
		return postgres.Finish{}, err
	}
	f, err := a.persist(ctx, toolCtx, func(ctx context.Context) (postgres.Finish, error) {
		switch {
		case result.Wait != nil:
			return a.waiting(ctx, result)
		case result.Verdict == run.Failed || result.Verdict == run.Error:
			return a.gateFailed(ctx, result)
		}
		return a.succeeded(ctx, result)
	})
	if err == nil && a.saved != nil {
		tellLost(log, a.saved)
	}
	return f, err
}

// tellLost tells in a step's log what of its workspace later steps do not find.
func tellLost(log io.Writer, saved *snapshot.Scan) {
	if lost := saved.Lost(); lost != "" {
		fmt.Fprintf(log, "[nofx] not kept for later steps: %s\n", lost)
	}
	if len(saved.Modes) > 0 {
		fmt.Fprintf(log, otherModes, "later steps see", saved.Modes)
	}
}

// otherModes tells in a step's log who sees what with another mode than it was given.
// A step that finds such files on this worker is told, too: its log is read when, say,
// ssh refuses a key that others may read.
const otherModes = "[nofx] modes other than 644 and 755 are not kept; %s %v\n"

// waived returns the step's outputs if its gate was waived for the very inputs that
// it would judge, or show a person, now; else nil.
func (a *attempt) waived() (map[string]any, error) {
	w := a.claim.Waiver
	if w == nil {
		return nil, nil
	}
	if digest, err := a.inputDigest(); err != nil || digest != w.InputDigest {
		return nil, err
	}
	if rowOf(a.claim.Tool).Gate == run.CommandGate {
		return map[string]any{"verdict": string(run.Waived)}, nil
	}
	return map[string]any{"decision": "waive", "by": w.By, "by_name": w.ByName, "reason": w.Reason}, nil
}

// restore lends the attempt a directory and makes it what the step starts from.
func (a *attempt) restore(ctx context.Context) (err error) {
	ctx, span := tracer().Start(ctx, "checkpoint.restore")
	defer span.End()
	if a.space, err = a.spaces.Take(a.claim.TenantID, a.claim.RunID); err != nil {
		return err
	}
	return a.space.Restore(ctx, a.start.Tree)
}

func (a *attempt) giveBack() {
	if a.space != nil {
		a.spaces.Give(a.claim.RunID, a.space)
	}
}

// runTool runs the tool, its output going to the step's log. What it leaves in
// its scratch directory goes while the lease is kept: it may be much.
func (a *attempt) runTool(ctx, toolCtx context.Context, log *steplog.Writer) (tool.Result, error) {
	c := a.claim
	call := tool.Call{
		RunID: run.RunID.Format(c.RunID), StepID: run.StepID.Format(c.StepID), Name: c.Name, Tool: c.Tool,
		Spec: c.Spec, Signal: c.Signal, Traceparent: telemetry.Inject(toolCtx), Artifact: a.openArtifact,
		Effect: func(toolCtx context.Context, e tool.Effect) (json.RawMessage, error) {
			return a.effect(ctx, toolCtx, e)
		},
	}
	if rowOf(c.Tool).Waits {
		return a.tools.Run(toolCtx, call)
	}
	if c.LostLeases > 0 {
		if err := a.db.BeginTool(ctx, c); err != nil {
			return tool.Result{}, err
		}
	}
	if a.space != nil {
		call.Workspace, call.Scratch = a.space.Path, a.space.Scratch
		defer a.space.Clear()
	}
	call.Log = log
	return a.tools.Run(toolCtx, call)
}

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
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		next = &attempt{parts: a.parts, job: a.job, began: a.began}
		f.Chain = nil
		f.Reason = a.redactor.String(sieve.Clean(f.Reason)) // which may quote what the step did
		if f.Outcome == "succeed" && a.mayGoOn() {
			f.Chain = &postgres.Chain{Queue: a.job.Queue, JobID: a.job.ID, Span: job, Pre: next.begin}
		}
		var done postgres.Finished
		if err = a.keeper.fresh(ctx, a.claim); err == nil {
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
		if err := pauseFor(ctx, pause); err != nil {
			return nil, sent, err
		}
	}
}

// unrecordable is the failure in the place of an outcome that the database refuses for
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
	return !spoiled && !a.drain.begun.Load() && a.beacon.open(a.job.Queue) && a.storage.away() == nil &&
		(!a.slots.full(a.job.Queue) || time.Since(a.began) < turn)
}

// finished notes what a recorded finish came to, and returns next if it was
// claimed.
func (a *attempt) finished(ctx context.Context, done postgres.Finished, next *attempt) *attempt {
	if a.saved != nil {
		a.space.Committed(a.saved)
	}
	if done.Ended != "" {
		a.metrics.RunsFinished.Inc(string(done.Ended))
		a.metrics.RunDuration.Observe(ctx, done.After.Seconds(), string(done.Ended))
	}
	if done.Next == nil {
		return nil
	}
	next.claim = done.Next
	return next
}

func pauseFor(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
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

// reportLost is the report of an attempt that nobody recorded: its lease went,
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

// rowOf is the row of a tool; of one that this worker does not know it is empty, and
// its step fails.
func rowOf(name string) run.Tool {
	row, _ := run.ToolOf(name)
	return row
}

// outputsOf is a result's outputs as the step's row keeps them.
func outputsOf(r tool.Result) (json.RawMessage, error) {
	if r.Outputs == nil {
		return nil, nil
	}
	raw, err := json.Marshal(r.Outputs)
	if err != nil {
		return nil, fmt.Errorf("outputs as JSON: %w", err)
	}
	if len(raw) > run.MaxOutputBytes {
		return nil, fault.New(fault.Invalid, "too-large", "outputs of %d bytes; at most %d", len(raw), run.MaxOutputBytes)
	}
	return raw, nil
}
