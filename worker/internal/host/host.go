// Package host is the process of a worker: what brings steps to it, what keeps it going
// and how it ends.
//
// A [Host] has River bring wake-ups, which package step runs, and beside them its
// services, each of the same shape: the heartbeat renews the leases of the process, the
// watch of storage knows whether that answers, the beacon tells the deployment that the
// worker is there, the sweep moves what other, dead workers left behind and what waited
// for a time to come, retention deletes what has expired, and alerts tell endpoints of events. Nothing here decides a
// state: the database does.
//
// Start at [New], then [Host.Run].
package host

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"

	"nofx.dev/shared/blob"
	"nofx.dev/shared/failpoint"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/review"
	"nofx.dev/shared/run"
	"nofx.dev/shared/seal"
	"nofx.dev/shared/telemetry"
	"nofx.dev/worker/internal/alert"
	"nofx.dev/worker/internal/checkpoint"
	"nofx.dev/worker/internal/egress"
	"nofx.dev/worker/internal/lease"
	"nofx.dev/worker/internal/llm"
	"nofx.dev/worker/internal/llm/rules"
	"nofx.dev/worker/internal/retention"
	"nofx.dev/worker/internal/reviewstep"
	"nofx.dev/worker/internal/step"
	"nofx.dev/worker/internal/storage"
	"nofx.dev/worker/internal/system"
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

// reservedPart is the part of a queue's slots that tenants with few steps have for
// themselves: one of so many.
const reservedPart = 8

// Config is what a Host works with.
type Config struct {
	ID      string // unique among workers; on leases and attempts
	PID     int
	Host    string
	Version string // of the build; on checkpoints

	Work        *postgres.DB // claims and finishes
	River       *postgres.DB // River's own, which can listen unless PollOnly
	Heartbeat   *postgres.DB // renewals and sweeps, on two connections of its own
	Blobs       *blob.Store
	Tools       *tool.Box
	Models      *llm.Client                             // of reviews; nil: steps of gate:llm_review are refused
	Hosts       map[review.Provider]reviewstep.OpenHost // forges whose pull requests are reviewed
	Credentials reviewstep.Credentials                  // that repositories name
	Keys        *seal.Key                               // of secrets; nil: none can be opened
	Alerts      *egress.Config                          // what endpoints may be; nil: deliveries to them are left to others
	PublicURL   string                                  // of the gateway, for links in them; "": there are none
	Redactor    *telemetry.Redactor
	Metrics     *telemetry.Metrics
	Log         *slog.Logger

	Queues       []string
	Concurrency  int // steps at once, on each queue
	LeaseTTL     time.Duration
	DrainGrace   time.Duration // for running steps to end after a stop
	Grace        time.Duration // of collections; postgres.Grace if it is 0
	Budget       time.Duration // for a step to get over failures of the infrastructure
	WorkspaceDir string        // shared with other workers of the machine; "" is the default one
	PollOnly     bool          // notifications do not arrive
}

// Host runs steps until it is told to stop.
type Host struct {
	id          string
	queues      []string
	concurrency int
	grace       time.Duration
	metrics     *telemetry.Metrics
	log         *slog.Logger

	steps    *step.Runner
	spaces   *workspace.Pool
	leases   *lease.Keeper
	storage  *storage.Watch
	beacon   *beacon
	services []Service
	river    *postgres.QueueClient // nil where no queue is served
}

// New makes a Host. Nothing runs before [Host.Run].
func New(cfg Config) (*Host, error) {
	wanted := 0
	if slices.Contains(cfg.Queues, run.StepQueue) {
		if wanted = cfg.Tools.TierWanted(); wanted > 0 {
			cfg.Log.Error("this worker does not serve queue step", "reason", cfg.Tools.CodeRefused())
			cfg.Queues = slices.DeleteFunc(slices.Clone(cfg.Queues), func(q string) bool { return q == run.StepQueue })
		}
	}
	h := &Host{
		id: cfg.ID, queues: cfg.Queues, concurrency: cfg.Concurrency, grace: cfg.DrainGrace, metrics: cfg.Metrics, log: cfg.Log,
		leases:  lease.New(cfg.Heartbeat, cfg.LeaseTTL, cfg.Log, cfg.Metrics),
		storage: storage.New(cfg.Blobs, cfg.Log),
	}
	checkpoints := checkpoint.New(checkpoint.Config{DB: cfg.Work, Blobs: cfg.Blobs, Metrics: cfg.Metrics, Version: cfg.Version})
	var err error
	if h.spaces, err = workspace.Open(checkpoints.Snapshots(), cfg.WorkspaceDir, 2*cfg.Concurrency, cfg.Log); err != nil {
		return nil, err
	}
	h.beacon = &beacon{
		db: cfg.Heartbeat, log: cfg.Log, storage: h.storage,
		self: postgres.WorkerInfo{
			ID: cfg.ID, PID: cfg.PID, Host: cfg.Host, Version: cfg.Version, Queues: cfg.Queues, SandboxTier: cfg.Tools.Tier(), TierWanted: wanted,
			SlotsMax: cfg.Concurrency * len(cfg.Queues),
		},
	}
	reserved := cfg.Concurrency / reservedPart
	h.steps = step.New(step.Config{
		Self: postgres.Worker{ID: cfg.ID, PID: cfg.PID},
		DB:   cfg.Work, Blobs: cfg.Blobs, Checkpoints: checkpoints, Workspaces: h.spaces, Leases: h.leases, Storage: h.storage,
		Tools: cfg.Tools, Keys: cfg.Keys, Redactor: cfg.Redactor, Metrics: cfg.Metrics, Log: cfg.Log,
		System: system.New(system.Config{
			DB: cfg.Work, Blobs: cfg.Blobs, Checkpoints: checkpoints, Workspaces: h.spaces, Tools: cfg.Tools,
			Redactor: cfg.Redactor, Metrics: cfg.Metrics, Grace: cfg.Grace,
		}),
		Reviews: reviewstep.New(reviewstep.Config{
			DB: cfg.Work, Blobs: cfg.Blobs, Models: cfg.Models, Verify: cfg.Models != nil && cfg.Models.Provider() != rules.Name,
			Hosts: cfg.Hosts, Credentials: cfg.Credentials, Redactor: cfg.Redactor, Metrics: cfg.Metrics,
		}),
		Queues: cfg.Queues, Slots: cfg.Concurrency - reserved, Open: h.beacon.open, LeaseTTL: cfg.LeaseTTL, Budget: cfg.Budget,
	})
	h.beacon.steps = h.steps
	sweeper := newSweeper(cfg.Heartbeat, cfg.ID, cfg.LeaseTTL, cfg.Log, cfg.Metrics)
	cleaner := retention.New(retention.Config{DB: cfg.Work, Blobs: cfg.Blobs, Metrics: cfg.Metrics, Log: cfg.Log})
	h.services = []Service{
		{Name: "heartbeat", Run: h.leases.Run, Outlasts: true},
		{Name: "storage", Run: h.storage.Run, Outlasts: true},
		{Name: "beacon", Run: h.beacon.run, Outlasts: true},
		{Name: "sweep", Run: sweeper.run},
		{Name: "retention", Run: cleaner.Run},
	}
	if cfg.Alerts != nil && cfg.Keys != nil {
		alerts := alert.New(alert.Config{
			Worker: cfg.ID, DB: cfg.Work, Keys: cfg.Keys, Egress: *cfg.Alerts, PublicURL: cfg.PublicURL,
			Redactor: cfg.Redactor, Metrics: cfg.Metrics, Log: cfg.Log,
		})
		h.services = append(h.services, Service{Name: "alerts", Run: alerts.Run})
	}
	queues := make(map[string]river.QueueConfig, len(cfg.Queues))
	for _, q := range cfg.Queues {
		queue := river.QueueConfig{MaxWorkers: cfg.Concurrency, FetchPollInterval: 100 * time.Millisecond} // for what no notification told
		if q != run.StepQueue {
			queue.FetchPollInterval = 500 * time.Millisecond // a model, or a copy of an upload, takes seconds anyway
		}
		queues[q] = queue
	}
	if len(queues) == 0 {
		return h, nil // it says that it is there, and why it does nothing
	}
	workers := river.NewWorkers()
	river.AddWorker(workers, river.WorkFunc(h.steps.Wake))
	h.river, err = cfg.River.NewQueueClient(river.Config{
		Queues:        queues,
		Workers:       workers,
		Middleware:    []rivertype.Middleware{telemetry.NewCarrier(cfg.Metrics)},
		ID:            cfg.ID,
		Logger:        slog.New(quiet{cfg.Log.Handler()}),
		FetchCooldown: 10 * time.Millisecond,
		JobTimeout:    jobTimeout,
		PollOnly:      cfg.PollOnly,
		// Whichever worker leads deletes finished jobs. They were wake-ups: what
		// happened is in the rows of their steps.
		CompletedJobRetentionPeriod: jobRetention,
		CancelledJobRetentionPeriod: jobRetention,
		DiscardedJobRetentionPeriod: failedJobRetention,
	}, postgres.Reserve{Slots: reserved, Full: h.steps.Full})
	return h, err
}

// Run works until ctx ends and then drains: nothing more is claimed, running
// steps get the grace to end, and what still runs then is given back. A hurry
// that ends skips the grace.
func (h *Host) Run(ctx, hurry context.Context) error {
	// What keeps leases must outlive ctx: steps still run while the worker drains.
	background, stop := context.WithCancel(context.WithoutCancel(ctx))
	taking, stopTaking := context.WithCancel(ctx)
	var serving sync.WaitGroup
	defer serving.Wait()
	defer stop()
	defer stopTaking()
	h.beacon.beat(ctx) // to know what is paused before anything is taken
	for _, s := range h.services {
		until := taking
		if s.Outlasts {
			until = background
		}
		serving.Go(func() { h.serve(until, s) })
	}
	for _, q := range h.queues {
		h.metrics.WorkerSlots.Set(float64(h.concurrency), q, "max")
	}
	if h.river != nil {
		if err := h.river.Start(background); err != nil {
			return fmt.Errorf("start River: %w", err)
		}
	}
	h.log.InfoContext(ctx, "worker takes steps", "worker_id", h.id, "queues", h.queues, "concurrency", h.concurrency)
	<-ctx.Done()
	err := h.stop(background, hurry)
	if removeErr := h.spaces.Close(); err == nil {
		err = removeErr
	}
	return err
}

// giveBack bounds the time for interrupt checkpoints and for giving steps back.
const giveBack = 20 * time.Second

func (h *Host) stop(ctx, hurry context.Context) error {
	h.steps.Drain()
	h.log.InfoContext(ctx, "worker drains", "grace", h.grace.String(), "steps", h.leases.Count())
	if err := failpoint.Hit("in_drain"); err != nil {
		return err
	}
	if h.river == nil {
		return nil
	}
	stopCtx, cancel := context.WithTimeout(ctx, h.grace+giveBack)
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- h.river.Stop(stopCtx) }()
	grace := time.NewTimer(h.grace)
	defer grace.Stop()
	select {
	case err := <-done:
		return err
	case <-hurry.Done():
	case <-grace.C:
	}
	h.steps.Interrupt()
	err := <-done
	if errors.Is(err, context.DeadlineExceeded) {
		hard, cancel := context.WithTimeout(ctx, 5*time.Second)
		defer cancel()
		err = h.river.StopAndCancel(hard)
	}
	return err
}

// quiet keeps River's own lines to warnings: what happens to a step is ours to
// tell, once.
type quiet struct{ slog.Handler }

func (q quiet) Enabled(_ context.Context, l slog.Level) bool { return l >= slog.LevelWarn }
