package postgres

import (
	"context"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"nofx.dev/shared/run"
)

// Work is a task of a system run.
type Work struct {
	Key           string   // of what is computed, unique within the tenant
	Project       string   // slug
	Plan          run.Plan // of run.SystemPlan
	SubjectRunID  *uuid.UUID
	CorrelationID string
	CreatedBy     string
	Again         bool // a run that has ended is no answer: what it did is to be done again
}

// StartWork returns the system run that does w: the newest run with its key, if that is
// live, has succeeded, or has failed because of its inputs and so would fail again;
// otherwise, and with Again whenever none is live, a new run, in the trace of ctx's span,
// which must be valid.
func (db *DB) StartWork(ctx context.Context, tenant uuid.UUID, w Work) (r run.Run, err error) {
	err = db.tx(ctx, tenant, func(tx pgx.Tx) error {
		r, err = db.startWork(ctx, tx, tenant, w)
		return err
	})
	return r, err
}

func (db *DB) startWork(ctx context.Context, tx pgx.Tx, tenant uuid.UUID, w Work) (r run.Run, err error) {
	d, err := NewRun{Project: w.Project, Plan: w.Plan, CorrelationID: w.CorrelationID, CreatedBy: w.CreatedBy, work: &w}.draft(ctx, tenant)
	if err != nil {
		return run.Run{}, err
	}
	var id *uuid.UUID
	if err := tx.QueryRow(ctx, "SELECT nofx.run_of_work($1)", w.Key).Scan(&id); err != nil {
		return run.Run{}, err
	}
	if id != nil {
		if r, err = oneRun(ctx, tx, tenant, *id); err != nil || standing(r) && !(w.Again && run.RunMachine.Terminal(r.State)) {
			return r, err
		}
	}
	err = db.insertRun(ctx, tx, d)
	return d.run, err
}

// standing reports whether the system run r is the result for further requests of its work.
func standing(r run.Run) bool {
	switch r.State {
	case run.Cancelled:
		return false
	case run.Failed:
		return r.FailureClass == run.ClassInvalid
	}
	return true
}

// ExpireSystemRuns deletes at most limit system runs of all tenants that ended more
// than seven days ago, with all that they left, and returns how many.
func (db *DB) ExpireSystemRuns(ctx context.Context, limit int) (int64, error) {
	expired, err := across(ctx, db, pgx.RowTo[int64], "SELECT nofx.expire_system_runs($1)", limit)
	if err != nil {
		return 0, err
	}
	return expired[0], nil
}
