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
	"nofx.dev/shared/seal"
	"nofx.dev/shared/telemetry"
	"nofx.dev/worker/internal/batch"
	"nofx.dev/worker/internal/checkpoint"
	"nofx.dev/worker/internal/lease"
	"nofx.dev/worker/internal/reviewstep"
	"nofx.dev/worker/internal/snapshot"
	"nofx.dev/worker/internal/steplog"
	"nofx.dev/worker/internal/storage"
	"nofx.dev/worker/internal/system"
	"nofx.dev/worker/internal/tool"
	"nofx.dev/worker/internal/workspace"
)

func tracer() trace.Tracer { return otel.Tracer("nofx.dev/worker/internal/step") }

// parts are what the attempts of a Runner work with.
type parts struct {
	db          *postgres.DB
	blobs       *blob.Store
	checkpoints *checkpoint.Store
	spaces      *workspace.Pool
	tools       *tool.Box
	system      *system.Tools
	reviews     *reviewstep.Gate
	keys        *seal.Key
	redactor    *telemetry.Redactor
	metrics     *telemetry.Metrics
	log         *slog.Logger

	claims   *batch.Batcher[postgres.Wake, postgres.Claimed]
	finishes *batch.Batcher[postgres.Finish, postgres.Finished]
	held     *heldRuns
	slots    *slots
	leases   *lease.Keeper
	storage  *storage.Watch
	open     func(queue string) bool // whether steps may be taken from it
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

	secrets map[string]string // for the tool's environment, by name

	failedAt time.Time // when the infrastructure failed it first; zero: it did not
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
	held := a.leases.Hold(claim, sent, lose)
	defer a.leases.Release(held)
	toolCtx, interrupt := context.WithCancelCause(ctx)
	defer interrupt(nil)
	defer a.drain.watch(interrupt)()

	if err := failpoint.Hit("after_claim"); err != nil {
		return nil, sent, err
	}
	began := time.Now()
	defer a.giveBack()
	var f postgres.Finish
	err := held.Alone(ctx)
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

// try does the step's work and returns how the attempt ends. ctx ends with the
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

// failed returns the outcome of an error that no tool made: of the database, of
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
	a.storage.Note(err)
	return a.retry(classOf(err), reason, after)
}

// outcome prepares the attempt, runs the tool and saves what it left. The log is ended
// after that: it has the time of a save that is repeated. Beside an error of the tool it
// holds what the tool consumed.
func (a *attempt) outcome(ctx, toolCtx context.Context) (postgres.Finish, error) {
	c := a.claim
	if ended, err := a.prepare(ctx); err != nil {
		return postgres.Finish{}, a.corrupt(ctx, err)
	} else if ended != nil {
		return *ended, nil
	}
	var log *steplog.Writer
	if !rowOf(c.Tool).Waits {
		log = a.openLog(ctx)
		defer a.closeLog(ctx, toolCtx, log)
	}
	if a.space != nil && len(a.space.Purged) > 0 {
		fmt.Fprintf(log, "[nofx] purged by an administrator, and left out of the workspace: %q\n", a.space.Purged)
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

// prepare opens the secrets of the plan, asks whether its hosts are granted, makes the
// checkpoint that the step starts from, unless it came with the claim, puts earlier outputs
// into the inputs and brings the workspace in. It returns a finish where the step ends without
// its tool.
func (a *attempt) prepare(ctx context.Context) (*postgres.Finish, error) {
	if err := a.openSecrets(ctx); err != nil {
		return nil, err
	}
	if err := a.hostsGranted(ctx); err != nil {
		return nil, err
	}
	if a.start == nil {
		if conflicts, err := a.join(ctx); err != nil {
			return nil, err
		} else if conflicts != nil {
			f, err := a.conflict(conflicts)
			return &f, err
		}
	}
	if err := a.resolve(ctx); err != nil {
		return nil, err
	}
	if outputs, err := a.waived(); err != nil {
		return nil, err
	} else if outputs != nil {
		f, err := a.succeeded(ctx, tool.Result{Outputs: outputs})
		return &f, err
	}
	if rowOf(a.claim.Tool).Files == run.NoFiles {
		return nil, nil
	}
	return nil, a.restore(ctx)
}

// tellLost writes to a step's log what of its workspace later steps do not find.
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
	if rowOf(a.claim.Tool).Gate != run.ManualGate {
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
	began := time.Now()
	if err := a.space.Restore(ctx, a.start.Tree); err != nil {
		return err
	}
	a.metrics.CheckpointRestore.Observe(ctx, time.Since(began).Seconds())
	return nil
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
		Spec: c.Spec, Secrets: a.secrets, Signal: c.Signal, Traceparent: telemetry.Inject(toolCtx), Artifact: a.openArtifact,
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
	if rowOf(c.Tool).System {
		return a.tools.Within(toolCtx, c.Spec, func(ctx context.Context) (tool.Result, error) {
			return a.system.Run(ctx, system.Call{Claim: c, Log: log, Fresh: func(ctx context.Context) error { return a.leases.Fresh(ctx, c) }})
		})
	}
	if c.Tool == run.ToolReview {
		return a.tools.Within(toolCtx, c.Spec, func(ctx context.Context) (tool.Result, error) {
			return a.reviews.Run(ctx, reviewstep.Call{Claim: c, Tree: a.start.Tree, Log: log, Fresh: func(ctx context.Context) error { return a.leases.Fresh(ctx, c) }})
		})
	}
	if a.space != nil {
		call.Workspace, call.Scratch = a.space.Path, a.space.Scratch
		defer a.space.Clear()
	}
	call.Log = log
	return a.tools.Run(toolCtx, call)
}

// rowOf returns the row of a tool. That of a tool which this worker does not know is
// empty, and its step fails.
func rowOf(name string) run.Tool {
	row, _ := run.ToolOf(name)
	return row
}
