package postgres

import (
	"context"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// ExpiredRuns lists at most limit runs of all tenants whose retention has passed and that
// have events left, in order of tenant and run, behind a place: the zero RunRef is the
// beginning. It reads a limited number of runs and returns the place to continue from, or
// the zero RunRef at the end.
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
