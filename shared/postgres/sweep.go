package postgres

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// Due is something whose time has come.
type Due struct {
	TenantID uuid.UUID
	RunID    uuid.UUID
	StepID   *uuid.UUID // nil: the run's deadline
	Kind     DueKind
}

// DueKind is why something is due.
type DueKind string

// What a sweep looks for, leases first.
const (
	DueLease    DueKind = "lease"    // that has run out
	DueRetry    DueKind = "retry"    // whose delay is over
	DueWait     DueKind = "wait"     // that is over
	DueDeadline DueKind = "deadline" // of a run
	DueWakeUp   DueKind = "wakeup"   // that got lost
)

// DueKinds are all of them, in the order in which a sweep looks for them.
var DueKinds = []DueKind{DueLease, DueRetry, DueWait, DueDeadline, DueWakeUp}

// SweepRules are the settings of a sweep.
type SweepRules struct {
	LeaseRules
	Lost  time.Duration // how long a ready step may be without a live job
	Limit int           // rows of a kind that one look takes, or looks through
}

// SweepPlace is how far a sweep has looked for lost wake-ups; the zero value is the
// beginning.
type SweepPlace struct {
	At   time.Time
	Step uuid.UUID
}

// Due lists what of one kind a sweep has to handle, over all tenants. Leases are left
// out after an outage and after the server's start, until all workers could renew them.
// Of lost wake-ups it looks through the next rows after place and moves it on.
func (db *DB) Due(ctx context.Context, kind DueKind, r SweepRules, place *SweepPlace) (list []Due, err error) {
	row := func(row pgx.CollectableRow) (Due, error) {
		d := Due{Kind: kind}
		return d, row.Scan(&d.TenantID, &d.RunID, &d.StepID)
	}
	const columns = "SELECT tenant_id, run_id, step_id FROM nofx."
	switch kind {
	case DueLease:
		return across(ctx, db, row, columns+"due_leases($1, $2, $3)", r.Limit, r.TTL, r.Gap)
	case DueRetry:
		return across(ctx, db, row, columns+"due_retries($1)", r.Limit)
	case DueWait:
		return across(ctx, db, row, columns+"due_waits($1)", r.Limit)
	case DueDeadline:
		return across(ctx, db, row, columns+"due_runs($1)", r.Limit)
	case DueWakeUp:
		return db.lostWakeUps(ctx, r, place)
	}
	return nil, fmt.Errorf("nothing is due as %q", kind)
}

func (db *DB) lostWakeUps(ctx context.Context, r SweepRules, place *SweepPlace) (list []Due, err error) {
	type found struct {
		Tenant, Run, Step *uuid.UUID
		NextAt            *time.Time
		NextStep          *uuid.UUID
	}
	rows, err := across(ctx, db, pgx.RowToStructByPos[found],
		"SELECT tenant_id, run_id, step_id, next_at, next_step FROM nofx.lost_wake_ups($1, $2, $3, $4)", place.At, place.Step, r.Limit, r.Lost)
	if err != nil {
		return nil, err
	}
	*place = SweepPlace{}
	for _, f := range rows {
		if f.Step != nil {
			list = append(list, Due{TenantID: *f.Tenant, RunID: *f.Run, StepID: f.Step, Kind: DueWakeUp})
		}
		if f.NextAt != nil {
			*place = SweepPlace{*f.NextAt, *f.NextStep}
		}
	}
	return list, nil
}

// Sweep handles one of them after a second look under its locks, enqueues what
// became ready and returns the transition it made, or "" when there was nothing to do
// any more, or somebody holds the run. between is called before the jobs are enqueued.
func (db *DB) Sweep(ctx context.Context, d Due, r SweepRules, between func() error) (event string, err error) {
	err = db.tx(ctx, d.TenantID, func(tx pgx.Tx) error {
		if d.StepID == nil {
			return tx.QueryRow(ctx, "SELECT coalesce(nofx.sweep_run($1), '')", d.RunID).Scan(&event)
		}
		if err := tx.QueryRow(ctx, "SELECT coalesce(nofx.sweep_step($1, $2, $3, $4, $5), '')",
			d.StepID, d.Kind, r.Lost, r.TTL, r.Gap).Scan(&event); err != nil || event == "" {
			return err
		}
		if err := between(); err != nil {
			return err
		}
		return db.enqueueReady(ctx, tx, d.TenantID, d.RunID)
	})
	return event, err
}

// strayAfter is how long a job may be with a worker without a lease: before its claim,
// and after its last finish until River has completed it.
const strayAfter = 15 * time.Second

// EndStrayJobs ends at most limit of the River jobs that are left with a worker though
// they carry no lease any more, and returns how many.
func (db *DB) EndStrayJobs(ctx context.Context, limit int) (int64, error) {
	ended, err := across(ctx, db, pgx.RowTo[int64], "SELECT nofx.end_stray_jobs($1, $2)", strayAfter, limit)
	if err != nil {
		return 0, err
	}
	return ended[0], nil
}
