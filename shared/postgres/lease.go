package postgres

import (
	"context"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// Lease is what a worker holds on a step.
type Lease struct {
	StepID uuid.UUID
	Fence  int64
}

// Heartbeat renews the leases of one worker for ttl, in one statement, and
// returns the steps that it still holds. The others are lost.
func (db *DB) Heartbeat(ctx context.Context, leases []Lease, ttl time.Duration) ([]uuid.UUID, error) {
	steps := make([]uuid.UUID, len(leases))
	fences := make([]int64, len(leases))
	for i, l := range leases {
		steps[i], fences[i] = l.StepID, l.Fence
	}
	return across(ctx, db, pgx.RowTo[uuid.UUID], "SELECT * FROM nofx.heartbeat($1, $2, $3)", steps, fences, ttl)
}

// Due is something whose time has come.
type Due struct {
	TenantID uuid.UUID
	RunID    uuid.UUID
	StepID   *uuid.UUID // nil: the run's deadline
	Kind     string     // lease, backoff, wait, deadline or wakeup

	// Of a pass that found leases expired: how many of how many, and of how many workers.
	expired, leases, owners int
}

// SweepRules are the settings of a sweep.
type SweepRules struct {
	LeaseTTL time.Duration
	Lost     time.Duration // how long a ready step may be without a live job
	Limit    int           // rows of a kind
}

// Due lists what a sweep has to look at, over all tenants. Leases are left out
// while the server has not been up for two TTLs.
func (db *DB) Due(ctx context.Context, r SweepRules) ([]Due, error) {
	return across(ctx, db, func(row pgx.CollectableRow) (d Due, err error) {
		err = row.Scan(&d.TenantID, &d.RunID, &d.StepID, &d.Kind, &d.expired, &d.leases, &d.owners)
		return d, err
	}, `SELECT tenant_id, run_id, step_id, kind, leases_expired, leases_total, owners_expired
		FROM nofx.sweep_candidates($1, $2, $3)`, r.Limit, r.LeaseTTL, r.Lost)
}

// Sweep handles one of them after a second look under its locks, enqueues what
// became ready and returns the transition it made, or "" when there was nothing
// to do any more, or somebody holds the run. Where more than half of all leases expired at once, and not
// those of one worker alone, the fault is not the steps', and the loss does not
// count towards poison. between is called before the jobs are enqueued.
func (db *DB) Sweep(ctx context.Context, d Due, r SweepRules, between func() error) (event string, err error) {
	err = db.tx(ctx, d.TenantID, func(tx pgx.Tx) error {
		if d.StepID == nil {
			return tx.QueryRow(ctx, "SELECT coalesce(nofx.sweep_run($1), '')", d.RunID).Scan(&event)
		}
		counts := d.owners < 2 || 2*d.expired <= d.leases
		if err := tx.QueryRow(ctx, "SELECT coalesce(nofx.sweep_step($1, $2, $3, $4), '')",
			d.StepID, d.Kind, counts, r.Lost).Scan(&event); err != nil || event == "" {
			return err
		}
		if err := between(); err != nil {
			return err
		}
		return db.enqueueReady(ctx, tx, d.TenantID, d.RunID)
	})
	return event, err
}
