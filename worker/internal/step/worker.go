package step

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"
	"go.opentelemetry.io/otel/trace"

	"nofx.dev/shared/blob"
	"nofx.dev/shared/failpoint"
	"nofx.dev/shared/job"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/run"
	"nofx.dev/shared/telemetry"
	"nofx.dev/worker/internal/batch"
	"nofx.dev/worker/internal/checkpoint"
	"nofx.dev/worker/internal/tool"
	"nofx.dev/worker/internal/workspace"
)

// How long finished jobs are kept: those of a busy day would be millions of rows.
const (
	jobRetention       = time.Hour
	failedJobRetention = 24 * time.Hour
)

// jobTimeout is beyond any step's, whose own timeout and lease act: it is there for
// River's rescuer, which leaves jobs without one running for ever.
const jobTimeout = 25 * time.Hour

// Config is what a Worker works with.
type Config struct {
	ID      string // unique among workers; on leases and attempts
	PID     int
	Host    string
	Version string // of the build; on checkpoints
	Tier    int    // of the sandbox

	Work      *postgres.DB // claims and finishes
	River     *postgres.DB // River's own, which can listen unless PollOnly
	Heartbeat *postgres.DB // renewals and sweeps, on two connections of its own
	Blobs     *blob.Store
	Tools     *tool.Box
	Redactor  *telemetry.Redactor
	Metrics   *telemetry.Metrics
	Log       *slog.Logger

	Queues       []string
	Concurrency  int // steps at once, on each queue
	LeaseTTL     time.Duration
	DrainGrace   time.Duration // for running steps to end after a stop
	Budget       time.Duration // for a step to get over failures of the infrastructure
	WorkspaceDir string        // shared with other workers of the machine; "" is the default one
	PollOnly     bool          // notifications do not arrive
}

// Worker runs steps until it is told to stop.
type Worker struct {
	parts
	id      string
	pid     int
	ttl     time.Duration
	grace   time.Duration
	sweeper *sweeper
	river   *postgres.QueueClient
	queues  []string
}

// New makes a Worker. Nothing runs before [Worker.Run].
func New(cfg Config) (*Worker, error) {
	w := &Worker{
		id: cfg.ID, pid: cfg.PID, ttl: cfg.LeaseTTL, grace: cfg.DrainGrace, queues: cfg.Queues,
		sweeper: newSweeper(cfg.Heartbeat, cfg.LeaseTTL, cfg.Log, cfg.Metrics),
		parts: parts{
			db: cfg.Work, blobs: cfg.Blobs, tools: cfg.Tools, budget: cfg.Budget,
			redactor: cfg.Redactor, metrics: cfg.Metrics, log: cfg.Log,
			checkpoints: checkpoint.New(checkpoint.Config{DB: cfg.Work, Blobs: cfg.Blobs, Metrics: cfg.Metrics, Version: cfg.Version}),
			storage:     newStorage(cfg.Blobs, cfg.Log),
			keeper:      newKeeper(cfg.Heartbeat, cfg.LeaseTTL, cfg.Log, cfg.Metrics),
			held:        &heldRuns{},
			slots:       newSlots(cfg.Queues, cfg.Concurrency),
			drain:       newDrain(),
		},
	}
	w.beacon = &beacon{
		db: cfg.Heartbeat, log: cfg.Log, storage: w.storage, drain: w.drain,
		self: postgres.WorkerInfo{
			ID: cfg.ID, PID: cfg.PID, Host: cfg.Host, Version: cfg.Version, Queues: cfg.Queues, SandboxTier: cfg.Tier,
			SlotsMax: cfg.Concurrency * len(cfg.Queues),
		},
	}
	self := postgres.Worker{ID: cfg.ID, PID: cfg.PID}
	w.claims = batch.New(func(ctx context.Context, list []postgres.Wake) ([]postgres.Claimed, error) {
		return w.db.ClaimSteps(ctx, list, self, w.ttl)
	}, postgres.Silent)
	w.finishes = batch.New(func(ctx context.Context, list []postgres.Finish) ([]postgres.Finished, error) {
		return w.db.FinishSteps(ctx, list, self, w.ttl)
	}, postgres.Silent)
	var err error
	if w.spaces, err = workspace.Open(w.checkpoints.Snapshots(), cfg.WorkspaceDir, 2*cfg.Concurrency, cfg.Log); err != nil {
		return nil, err
	}
	queues := make(map[string]river.QueueConfig, len(cfg.Queues))
	for _, q := range cfg.Queues {
		queue := river.QueueConfig{MaxWorkers: cfg.Concurrency}
		if q == run.ReviewQueue {
			queue.FetchPollInterval = 500 * time.Millisecond // a model takes seconds anyway
		}
		queues[q] = queue
	}
	workers := river.NewWorkers()
	river.AddWorker(workers, river.WorkFunc(w.wake))
	w.river, err = cfg.River.NewQueueClient(river.Config{
		Queues:            queues,
		Workers:           workers,
		Middleware:        []rivertype.Middleware{telemetry.NewCarrier(cfg.Metrics)},
		ID:                cfg.ID,
		Logger:            slog.New(quiet{cfg.Log.Handler()}),
		FetchCooldown:     10 * time.Millisecond,
		FetchPollInterval: 100 * time.Millisecond, // for what no notification told
		JobTimeout:        jobTimeout,
		PollOnly:          cfg.PollOnly,
		// Whichever worker leads deletes finished jobs. They were wake-ups: what
		// happened is in the rows of their steps.
		CompletedJobRetentionPeriod: jobRetention,
		CancelledJobRetentionPeriod: jobRetention,
		DiscardedJobRetentionPeriod: failedJobRetention,
	})
	return w, err
}

// wake is where River's job arrives. Its carrier, when it can be read, has put
// the job's span into ctx; otherwise the run's root context is the parent.
func (w *Worker) wake(ctx context.Context, j *river.Job[job.Step]) error {
	ctx, stop := withoutDeadline(ctx)
	defer stop()
	ctx = postgres.WithActor(ctx, w.id)
	if trace.SpanContextFromContext(ctx).IsValid() {
		return w.work(ctx, j)
	}
	parent, err := w.db.Traceparent(ctx, j.Args.TenantID, j.Args.StepID)
	if err != nil {
		return err
	}
	ctx, _ = telemetry.WithTraceparent(ctx, parent)
	return telemetry.Process(ctx, j.JobRow, func(ctx context.Context) error { return w.work(ctx, j) })
}

// withoutDeadline is ctx, but it ends by being cancelled alone: the steps that a job
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

// Run works until ctx ends and then drains: nothing more is claimed, running
// steps get the grace to end, and what still runs then is given back. A hurry
// that ends skips the grace.
func (w *Worker) Run(ctx, hurry context.Context) error {
	// What keeps leases must outlive ctx: steps still run while the worker drains.
	background, stop := context.WithCancel(context.WithoutCancel(ctx))
	var keeping sync.WaitGroup
	defer keeping.Wait()
	defer stop()
	keeping.Go(func() { w.keeper.run(background) })
	keeping.Go(func() { w.sweeper.run(postgres.WithActor(ctx, w.id)) })
	keeping.Go(func() { w.storage.run(background) })
	w.beacon.beat(ctx) // to know what is paused before anything is taken
	keeping.Go(func() { w.beacon.run(background, w.drain.told) })
	for _, q := range w.queues {
		w.metrics.WorkerSlots.Set(float64(w.slots.max), q, "max")
	}
	if err := w.river.Start(background); err != nil {
		return fmt.Errorf("start River: %w", err)
	}
	w.log.InfoContext(ctx, "worker takes steps", "worker_id", w.id, "queues", w.queues, "concurrency", w.slots.max)
	<-ctx.Done()
	err := w.stop(background, hurry)
	if removeErr := w.spaces.Close(); err == nil {
		err = removeErr
	}
	return err
}

// giveBack bounds the time for interrupt checkpoints and for giving steps back.
const giveBack = 20 * time.Second

func (w *Worker) stop(ctx, hurry context.Context) error {
	w.drain.begin()
	w.log.InfoContext(ctx, "worker drains", "grace", w.grace.String())
	if err := failpoint.Hit("in_drain"); err != nil {
		return err
	}
	stopCtx, cancel := context.WithTimeout(ctx, w.grace+giveBack)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- w.river.Stop(stopCtx) }()
	grace := time.NewTimer(w.grace)
	defer grace.Stop()
	select {
	case err := <-done:
		return err
	case <-hurry.Done():
	case <-grace.C:
	}
	w.drain.interrupt()
	err := <-done
	if errors.Is(err, context.DeadlineExceeded) {
		hard, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		err = w.river.StopAndCancel(hard)
	}
	return err
}

// drain tells running tools that the worker is going down.
type drain struct {
	begun atomic.Bool   // nothing more is claimed
	told  chan struct{} // closed then

	mu      sync.Mutex
	hurry   bool
	next    int
	running map[int]context.CancelCauseFunc
}

func newDrain() *drain {
	return &drain{told: make(chan struct{}), running: map[int]context.CancelCauseFunc{}}
}

// begin is called once.
func (d *drain) begin() {
	d.begun.Store(true)
	close(d.told)
}

// watch has interrupt called when the drain's grace is over, until the returned
// function is called.
func (d *drain) watch(interrupt context.CancelCauseFunc) (forget func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.hurry {
		interrupt(errDraining)
	}
	id := d.next
	d.next++
	d.running[id] = interrupt
	return func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.running, id)
	}
}

func (d *drain) interrupt() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.hurry = true
	for _, interrupt := range d.running {
		interrupt(errDraining)
	}
}

// quiet keeps River's own lines to warnings: what happens to a step is ours to
// tell, once.
type quiet struct{ slog.Handler }

func (q quiet) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelWarn }
