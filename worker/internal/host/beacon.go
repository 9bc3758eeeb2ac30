package host

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"nofx.dev/shared/postgres"
	"nofx.dev/worker/internal/step"
	"nofx.dev/worker/internal/storage"
)

// beacon tells the deployment that this worker is there and what it waits for, and
// hears which of its queues are paused. River heeds that by itself for what comes as a
// job; steps taken by a chain have none.
type beacon struct {
	db      *postgres.DB
	self    postgres.WorkerInfo // but for what changes
	storage *storage.Watch
	steps   *step.Runner
	log     *slog.Logger

	mu     sync.Mutex
	paused []string
}

// run speaks every few seconds until ctx ends, once more when the worker begins to
// drain or to wait, or has waited, and takes leave.
func (b *beacon) run(ctx context.Context) {
	draining := b.steps.Draining()
	every := time.NewTicker(postgres.BeatEvery)
	defer every.Stop()
	for {
		select {
		case <-every.C:
		case <-b.storage.Turned():
		case <-draining:
			draining = nil
		case <-ctx.Done():
			leave, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*time.Second)
			defer cancel()
			if err := b.db.LeaveWorker(leave, b.self.ID); err != nil {
				b.log.WarnContext(leave, "worker could not take leave", "error", err)
			}
			return
		}
		b.beat(ctx)
	}
}

func (b *beacon) beat(ctx context.Context) {
	beatCtx, cancel := context.WithTimeout(ctx, postgres.BeatEvery)
	defer cancel()
	self := b.self
	self.WaitsFor = b.storage.WaitsFor()
	select {
	case <-b.steps.Draining():
		self.Draining = true
	default:
	}
	paused, err := b.db.BeatWorker(beatCtx, self)
	if err != nil {
		if ctx.Err() == nil {
			b.log.WarnContext(ctx, "worker could not say that it is there", "error", err)
		}
		return // what was paused stays so
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.paused = paused
}

// open reports whether steps may be taken from a queue.
func (b *beacon) open(queue string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return !slices.Contains(b.paused, queue)
}
