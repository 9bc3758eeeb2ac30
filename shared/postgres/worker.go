package postgres

import (
	"context"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"nofx.dev/shared/run"
)

// The interval of a worker's reports, the silence after which it counts as lost, and the
// time until it is forgotten.
const (
	BeatEvery     = 5 * time.Second
	silentAfter   = 3 * BeatEvery
	forgetWorkers = time.Hour
)

// WorkerInfo is a worker process as it describes itself and as its leases show it.
type WorkerInfo struct {
	ID          string
	PID         int
	Host        string
	Version     string
	Queues      []string
	SlotsMax    int // steps at once, over all its queues
	SlotsUsed   int // leases
	SandboxTier int
	TierWanted  int // the least tier, where the sandbox is below it and the worker leaves queue step to others; else 0
	Draining    bool
	WaitsFor    string        // what it waits for, such as "storage"; empty: nothing
	Lost        bool          // one of its leases has expired since its last report
	Silence     time.Duration // since it was heard of, or since the end of a later outage, by the database's clock
}

// Silent reports whether the worker is taken for gone.
func (w WorkerInfo) Silent() bool { return w.Lost || w.Silence >= silentAfter }

// BeatWorker records that a worker is alive, and returns its queues that are paused. It
// ignores the times of w, its leases and whether it is lost, which the database sets.
func (db *DB) BeatWorker(ctx context.Context, w WorkerInfo) (paused []string, err error) {
	answers, err := across(ctx, db, pgx.RowTo[[]string], "SELECT nofx.beat_worker($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
		w.ID, w.PID, w.Host, w.Version, w.Queues, w.SlotsMax, w.SandboxTier, w.TierWanted, w.Draining, w.WaitsFor, forgetWorkers)
	if err != nil {
		return nil, err
	}
	return answers[0], nil
}

// LeaveWorker removes a stopped worker from the list. A [DB.BeatWorker] that was abandoned
// and arrives later does not add it again.
func (db *DB) LeaveWorker(ctx context.Context, id string) error {
	_, err := across(ctx, db, pgx.RowTo[any], "SELECT nofx.leave_worker($1)", id)
	return err
}

// Workers lists the workers of the deployment, oldest first, including lost ones for an
// hour.
func (db *DB) Workers(ctx context.Context) ([]WorkerInfo, error) {
	return across(ctx, db, pgx.RowToStructByPos[WorkerInfo], `SELECT id, pid, host, version, queues, slots_max, slots_used, sandbox_tier, tier_wanted, draining, waits_for, lost,
		silence FROM nofx.workers($1)`, forgetWorkers)
}

// missingWorkers adds to ready steps what they wait for while no worker takes from their queue.
func missingWorkers(ctx context.Context, tx pgx.Tx, steps []run.Step) error {
	var queues []string
	for _, s := range steps {
		if s.State == run.Ready && !slices.Contains(queues, s.Queue) {
			queues = append(queues, s.Queue)
		}
	}
	if len(queues) == 0 {
		return nil
	}
	rows, err := tx.Query(ctx, "SELECT q, coalesce(nofx.worker_missing(q, $2), '') FROM unnest($1::text[]) AS q", queues, silentAfter)
	if err != nil {
		return err
	}
	waits := map[string]string{}
	var queue, what string
	if _, err = pgx.ForEachRow(rows, []any{&queue, &what}, func() error { waits[queue] = what; return nil }); err != nil {
		return err
	}
	for i, s := range steps {
		if s.State == run.Ready {
			steps[i].WaitsForWorker = waits[s.Queue]
		}
	}
	return nil
}

// holders adds the state of their workers to running steps.
func holders(ctx context.Context, tx pgx.Tx, steps []run.Step) error {
	running := map[uuid.UUID]*run.Step{}
	var ids []uuid.UUID
	for i, s := range steps {
		if s.State == run.Running {
			running[s.ID] = &steps[i]
			ids = append(ids, s.ID)
		}
	}
	if len(ids) == 0 {
		return nil
	}
	rows, err := tx.Query(ctx, "SELECT step_id, silent_since, waits_for FROM nofx.step_holders($1, $2)", ids, silentAfter)
	if err != nil {
		return err
	}
	var id uuid.UUID
	var since *time.Time
	var waitsFor string
	_, err = pgx.ForEachRow(rows, []any{&id, &since, &waitsFor}, func() error {
		running[id].WorkerSilentSince, running[id].WorkerWaitsFor = since, waitsFor
		return nil
	})
	return err
}
