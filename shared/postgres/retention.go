package postgres

import (
	"context"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// ExpiredRuns lists at most limit runs of plans of all tenants whose retention has passed
// and of which something is to be deleted, in order of tenant and run, behind a place: the
// zero RunRef is the beginning. It reads a limited number of runs and returns the place to
// continue from, or the zero RunRef at the end.
func (db *DB) ExpiredRuns(ctx context.Context, after RunRef, looks, limit int) (runs []RunRef, next RunRef, err error) {
	type look struct {
		Tenant, Run uuid.UUID
		Expired     bool
	}
	rows, err := across(ctx, db, pgx.RowToStructByPos[look],
		"SELECT tenant_id, run_id, expired FROM nofx.expired_runs($1, $2, $3, $4)", after.Tenant, after.Run, looks, limit)
	for _, l := range rows {
		if l.Expired {
			runs = append(runs, RunRef{l.Tenant, l.Run})
		} else {
			next = RunRef{l.Tenant, l.Run}
		}
	}
	return runs, next, err
}

// Pruned is how many rows a prune deleted.
type Pruned struct {
	Events int64
	Chunks int64 // of logs; their objects are condemned
}

// PruneRuns deletes step logs and events of runs of one tenant, at most limit rows
// in all. Runs that have not expired, or that somebody else holds, are left alone.
func (db *DB) PruneRuns(ctx context.Context, tenant uuid.UUID, runs []uuid.UUID, limit int) (p Pruned, err error) {
	err = db.tx(ctx, tenant, func(tx pgx.Tx) error {
		return tx.QueryRow(ctx, "SELECT events, chunks FROM nofx.prune_runs($1, $2)", runs, limit).Scan(&p.Events, &p.Chunks)
	})
	return p, err
}

// ExpireRuns deletes runs of one tenant whose retention has passed, whose logs and events
// were deleted and which nothing needs: of each at most so many steps, or checkpoints. It
// returns the runs that are gone, and whether something of the others is left to delete.
// From the first call on, a run is fault.NotFound for everybody. Runs that somebody else
// holds are left alone.
func (db *DB) ExpireRuns(ctx context.Context, tenant uuid.UUID, runs []uuid.UUID, steps int) (gone []uuid.UUID, more bool, err error) {
	err = db.tx(ctx, tenant, func(tx pgx.Tx) error {
		return tx.QueryRow(ctx, "SELECT gone, more FROM nofx.expire_runs($1, $2)", runs, steps).Scan(&gone, &more)
	})
	return gone, more, err
}
