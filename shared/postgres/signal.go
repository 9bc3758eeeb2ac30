package postgres

import (
	"context"
	"encoding/json"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"nofx.dev/shared/run"
)

// SendSignal wakes the step that waits for key, of several the one that waited
// longest, and hands it the payload, any JSON. Where none waits the signal stays
// for 30 days, for the first that does. taken says which it was.
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

// ExpireSignals deletes at most limit of the signals of all tenants whose time has
// passed, unless a step that took one may still ask for it, and says how many.
func (db *DB) ExpireSignals(ctx context.Context, limit int) (int64, error) {
	expired, err := across(ctx, db, pgx.RowTo[int64], "SELECT nofx.expire_signals($1)", limit)
	if err != nil {
		return 0, err
	}
	return expired[0], nil
}
