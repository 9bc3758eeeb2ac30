package step

import (
	"context"
	"errors"
	"log/slog"
	"time"

	"github.com/riverqueue/river"
	"go.opentelemetry.io/otel/trace"

	"nofx.dev/shared/blob"
	"nofx.dev/shared/job"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/seal"
	"nofx.dev/shared/telemetry"
	"nofx.dev/worker/internal/batch"
	"nofx.dev/worker/internal/checkpoint"
	"nofx.dev/worker/internal/lease"
	"nofx.dev/worker/internal/reviewstep"
	"nofx.dev/worker/internal/storage"
	"nofx.dev/worker/internal/system"
	"nofx.dev/worker/internal/tool"
	"nofx.dev/worker/internal/workspace"
)

// Config is what a Runner works with.
type Config struct {
	Self        postgres.Worker // on leases and attempts
	DB          *postgres.DB    // claims and finishes
	Blobs       *blob.Store
	Checkpoints *checkpoint.Store
	Workspaces  *workspace.Pool
	Leases      *lease.Keeper
	Storage     *storage.Watch
	Tools       *tool.Box
	System      *system.Tools
	Reviews     *reviewstep.Gate
	Keys        *seal.Key // of secrets; nil: none can be opened
	Redactor    *telemetry.Redactor
	Metrics     *telemetry.Metrics
	Log         *slog.Logger

	Queues   []string
	Slots    int                     // steps at once, on each queue, without the reserved ones
	Open     func(queue string) bool // whether steps may be taken from a queue
	LeaseTTL time.Duration
	Budget   time.Duration // for a step to get over failures of the infrastructure
}

// Runner runs the steps that wake-ups bring. It is safe for concurrent use.
type Runner struct {
	parts
	id string
}

// New makes a Runner.
func New(cfg Config) *Runner {
	return &Runner{id: cfg.Self.ID, parts: parts{
		db: cfg.DB, blobs: cfg.Blobs, checkpoints: cfg.Checkpoints, spaces: cfg.Workspaces, leases: cfg.Leases, storage: cfg.Storage,
		tools: cfg.Tools, system: cfg.System, reviews: cfg.Reviews, keys: cfg.Keys, redactor: cfg.Redactor, metrics: cfg.Metrics, log: cfg.Log, open: cfg.Open, budget: cfg.Budget,
		claims: batch.New(func(ctx context.Context, list []postgres.Wake) ([]postgres.Claimed, error) {
			return cfg.DB.ClaimSteps(ctx, list, cfg.Self, cfg.LeaseTTL)
		}, postgres.Silent),
		finishes: batch.New(func(ctx context.Context, list []postgres.Finish) ([]postgres.Finished, error) {
			return cfg.DB.FinishSteps(ctx, list, cfg.Self, cfg.LeaseTTL)
		}, postgres.Silent),
		held:  &heldRuns{},
		slots: newSlots(cfg.Queues, cfg.Slots),
		drain: newDrain(),
	}}
}

// Full reports whether a queue has no slot but the reserved ones for a step that may be
// taken now.
func (r *Runner) Full(queue string) bool { return r.slots.full(queue) && r.open(queue) }

// Drain stops the Runner from claiming steps. It is to be called once.
func (r *Runner) Drain() { r.drain.begin() }

// Draining returns a channel that is closed by Drain.
func (r *Runner) Draining() <-chan struct{} { return r.drain.told }

// Interrupt ends the tools that still run, and their steps are given back.
func (r *Runner) Interrupt() { r.drain.interrupt() }

// Wake runs the step of one of River's jobs. Its carrier, when it can be read, has put
// the job's span into ctx; otherwise the run's root context is the parent.
func (r *Runner) Wake(ctx context.Context, j *river.Job[job.Step]) error {
	ctx, stop := withoutDeadline(ctx)
	defer stop()
	ctx = postgres.WithActor(ctx, r.id)
	if trace.SpanContextFromContext(ctx).IsValid() {
		return r.work(ctx, j)
	}
	parent, err := r.db.Traceparent(ctx, j.Args.TenantID, j.Args.StepID)
	if err != nil {
		return err
	}
	ctx, _ = telemetry.WithTraceparent(ctx, parent)
	return telemetry.Process(ctx, j.JobRow, func(ctx context.Context) error { return r.work(ctx, j) })
}

// withoutDeadline returns ctx, but it ends by being cancelled alone: the steps that a job
// goes on with may take longer together than River gives the job.
func withoutDeadline(ctx context.Context) (context.Context, context.CancelFunc) {
	free, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		if !errors.Is(ctx.Err(), context.DeadlineExceeded) {
			cancel(context.Cause(ctx))
		}
	})
	return free, func() {
		stop()
		cancel(nil)
	}
}

// work runs the attempt that j wakes for, and then steps of the same run that
// its finish takes along. A stale wake-up is no error: the step has moved on, and
// the job has done its duty.
func (r *Runner) work(ctx context.Context, j *river.Job[job.Step]) error {
	r.metrics.WorkerSlots.Add(1, j.Queue, "used")
	defer r.metrics.WorkerSlots.Add(-1, j.Queue, "used")
	defer r.slots.take(j.Queue)()
	if ok, err := r.admit(ctx, j); !ok {
		return err
	}
	sent := time.Now()
	a := &attempt{parts: r.parts, job: j, began: sent}
	runID := runOf(j)
	claimed, err := r.claims.Call(ctx, j.Args.TenantID, postgres.Wake{
		Job: j.Args, JobID: j.ID, Span: trace.SpanContextFromContext(ctx), Pre: a.begin, Held: r.held.has(runID)})
	if err == nil {
		r.held.note(runID, claimed.Err)
	}
	switch {
	case err != nil:
		return err
	case claimed.Err != nil:
		return river.JobSnooze(snooze(j)) // the wake-up stays good, and its slot is for others
	case claimed.Claim == nil:
		return nil
	}
	defer r.evict(ctx)
	for a != nil {
		if a, sent, err = a.run(ctx, sent); err != nil {
			return err
		}
	}
	return nil
}

func (r *Runner) evict(ctx context.Context) {
	if err := r.spaces.Evict(); err != nil {
		r.log.WarnContext(ctx, "workspace clean-up", "error", err)
	}
}
