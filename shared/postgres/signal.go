package postgres

import (
	"context"
	"encoding/json"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"nofx.dev/shared/run"
)

// SendSignal wakes the step that waits for key and gives it the payload, any JSON. If
// several steps wait, the one that has waited longest gets it. If none waits, the signal is
// stored for 30 days, for the first step that does. taken reports whether a step was
// waiting.
func (db *DB) SendSignal(ctx context.Context, tenant uuid.UUID, key string, payload json.RawMessage) (id uuid.UUID, taken bool, err error) {
	id = run.NewID()
	err = db.tx(ctx, tenant, func(tx pgx.Tx) error {
		var runID *uuid.UUID
		if err := tx.QueryRow(ctx, "SELECT nofx.send_signal($1, $2, $3)", id, key, string(payload)).Scan(&runID); err != nil {
			return err
		}
		if taken = runID != nil; !taken {
			return nil
		}
		return db.enqueueReady(ctx, tx, tenant, *runID)
	})
	return id, taken, err
}

// ExpireSignals deletes at most limit expired signals of all tenants, except those that a
// step has taken and may still read, and returns their number.
func (db *DB) ExpireSignals(ctx context.Context, limit int) (int64, error) {
	expired, err := across(ctx, db, pgx.RowTo[int64], "SELECT nofx.expire_signals($1)", limit)
	if err != nil {
		return 0, err
	}
	return expired[0], nil
}
