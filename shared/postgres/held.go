package postgres

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"nofx.dev/shared/fault"
)

// ErrHeld means that nothing was done for a step because another transaction holds its run.
// Try it again.
var ErrHeld error = fault.New(fault.Unavailable, "unavailable", "another transaction holds the run")

// maybeHeld is a step, and whether its run was held a moment ago.
type maybeHeld struct {
	step uuid.UUID
	held bool
}

// txOfFree runs do in one transaction of tenant for those asks whose runs no other
// transaction holds, and returns its answers in the order of asks, and held for the others.
// It waits at most lockWait for locks, since a run that is held for long must not delay
// other runs, and not at all for a run that was just held. After a vain wait it begins
// again without waiting for any run.
func txOfFree[Q, A any](ctx context.Context, db *DB, tenant uuid.UUID, asks []Q, of func(Q) maybeHeld, held A, do func(pgx.Tx, []Q) ([]A, error)) ([]A, error) {
	steps := make([]uuid.UUID, len(asks))
	skip := make([]bool, len(asks))
	for i, ask := range asks {
		s := of(ask)
		steps[i], skip[i] = s.step, s.held
	}
	var answers []A
	try := func(tx pgx.Tx) error {
		queue(tx, fmt.Sprintf("SET LOCAL lock_timeout = %d", db.lockWait.Milliseconds()))
		free, err := freeOf(ctx, tx, steps, skip)
		if err != nil {
			return err
		}
		answers = slices.Repeat([]A{held}, len(asks))
		if len(free) == 0 {
			return nil
		}
		some := make([]Q, len(free))
		for i, at := range free {
			some[i] = asks[at]
		}
		got, err := do(tx, some)
		if err != nil {
			return err
		}
		for i, at := range free {
			answers[at] = got[i]
		}
		return nil
	}
	err := db.tx(ctx, tenant, try)
	if lockTimeout(err) {
		for i := range skip {
			skip[i] = true
		}
		err = db.tx(ctx, tenant, try)
	}
	if lockTimeout(err) { // not of a run, then
		return slices.Repeat([]A{held}, len(asks)), nil
	}
	if err != nil {
		return nil, err
	}
	return answers, nil
}

// freeOf returns the places of the steps whose runs are not held: all places, if no run was
// just held.
func freeOf(ctx context.Context, tx pgx.Tx, steps []uuid.UUID, held []bool) ([]int, error) {
	var free []int
	if !slices.Contains(held, true) {
		for i := range steps {
			free = append(free, i)
		}
		return free, nil
	}
	rows, err := tx.Query(ctx, "SELECT nofx.lock_free_runs($1, $2)", steps, held)
	if err != nil {
		return nil, err
	}
	locked, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	for i, id := range steps {
		if slices.Contains(locked, id) {
			free = append(free, i)
		}
	}
	return free, err
}

func lockTimeout(err error) bool {
	pg, ok := errors.AsType[*pgconn.PgError](err)
	return ok && pg.Code == "55P03"
}
