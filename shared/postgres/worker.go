package postgres

import (
	"context"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"nofx.dev/shared/run"
)

// How often a worker says that it is there, how long one may be silent before it
// is taken for gone, and how long until it is forgotten.
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
	Draining    bool
	WaitsFor    string        // what it needs and has not now, as "storage"; empty: nothing
	Lost        bool          // a lease of it ran out since it was heard of
	Silence     time.Duration // since it was heard of, or since the end of a later outage, by the database's clock
}

// Silent reports whether the worker is taken for gone.
func (w WorkerInfo) Silent() bool { return w.Lost || w.Silence >= silentAfter }

// BeatWorker notes that a worker is there, and answers which of its queues are paused.
// The times of w, its leases and whether it is lost are the database's to know.
func (db *DB) BeatWorker(ctx context.Context, w WorkerInfo) (paused []string, err error) {
	answers, err := across(ctx, db, pgx.RowTo[[]string], "SELECT nofx.beat_worker($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)",
		w.ID, w.PID, w.Host, w.Version, w.Queues, w.SlotsMax, w.SandboxTier, w.Draining, w.WaitsFor, forgetWorkers)
	if err != nil {
		return nil, err
	}
	return answers[0], nil
}

// LeaveWorker takes a worker that has stopped off the list, also before a
// [DB.BeatWorker] that was given up and comes late.
func (db *DB) LeaveWorker(ctx context.Context, id string) error {
	_, err := across(ctx, db, pgx.RowTo[any], "SELECT nofx.leave_worker($1)", id)
	return err
}

// Workers lists the workers of the deployment, oldest first, those that have gone
// without a word for an hour included.
func (db *DB) Workers(ctx context.Context) ([]WorkerInfo, error) {
	return across(ctx, db, pgx.RowToStructByPos[WorkerInfo], `SELECT id, pid, host, version, queues, slots_max, slots_used, sandbox_tier, draining, waits_for, lost,
		silence FROM nofx.workers($1)`, forgetWorkers)
}

// holders completes steps that run by what is known of the workers that hold them.
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
