package postgres

import (
	"context"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// Lease is the right of a worker to run a step for a limited time.
type Lease struct {
	StepID uuid.UUID
	Fence  int64
}

// LeaseRules are how leases are kept and taken away.
type LeaseRules struct {
	TTL time.Duration
	Gap time.Duration // a silence of all workers that lasts longer is an outage
}

// Heartbeat renews the leases of one worker, in one statement, and returns the steps that
// it still holds: those renewed, and those whose lease another transaction has locked, to
// be asked for again. The others are lost. It is also called without leases, to record that
// the database can be reached.
func (db *DB) Heartbeat(ctx context.Context, leases []Lease, r LeaseRules) (renewed, locked []uuid.UUID, err error) {
	steps := make([]uuid.UUID, len(leases))
	fences := make([]int64, len(leases))
	for i, l := range leases {
		steps[i], fences[i] = l.StepID, l.Fence
	}
	type answer struct {
		Step    uuid.UUID
		Renewed bool
	}
	held, err := across(ctx, db, pgx.RowToStructByPos[answer], "SELECT step_id, renewed FROM nofx.heartbeat($1, $2, $3, $4)", steps, fences, r.TTL, r.Gap)
	for _, h := range held {
		if h.Renewed {
			renewed = append(renewed, h.Step)
		} else {
			locked = append(locked, h.Step)
		}
	}
	return renewed, locked, err
}

// BeginTool notes that the tool of c's step is about to begin: a step whose lease was
// lost before is poisoned only by losses after that. fault.Fenced means that the lease
// is lost.
func (db *DB) BeginTool(ctx context.Context, c *Claim) error {
	return db.tx(ctx, c.TenantID, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "SELECT nofx.begin_tool($1, $2)", c.StepID, c.Fence)
		return err
	})
}
