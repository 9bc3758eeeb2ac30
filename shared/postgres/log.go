package postgres

import (
	"context"
	"errors"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/run"
)

// LogChunk is a stored piece of an attempt's log.
type LogChunk struct {
	N      int
	Start  int64 // offset of its first byte
	Bytes  int64
	Lines  int
	Key    string
	SHA256 []byte
}

// Log is what is stored of the log of one attempt.
type Log struct {
	RunID  uuid.UUID
	Fence  int64 // 0: the step was not tried yet
	Ended  bool  // nothing will be added
	Chunks []LogChunk
}

// RecordLogChunk inserts a chunk, whose object is stored, and its event, once.
// fault.Fenced means that the lease is lost.
func (db *DB) RecordLogChunk(ctx context.Context, c *Claim, l LogChunk) error {
	return db.tx(ctx, c.TenantID, func(tx pgx.Tx) error {
		insertBlobs(tx, c.TenantID, nil, []Object{{Key: l.Key, SHA256: [32]byte(l.SHA256), Bytes: l.Bytes, Kind: "log"}})
		queue(tx, "SELECT nofx.record_log_chunk($1, $2, $3, $4, $5, $6, $7, $8)",
			c.StepID, c.Fence, l.N, l.Start, l.Bytes, l.Lines, l.Key, l.SHA256)
		return nil
	})
}

// Log lists the chunks of one attempt in order, of the latest when fence is nil.
// fault.NotFound for an unknown step or attempt, fault.Gone (object-gone) for a log
// that was deleted when the run's retention passed.
func (db *DB) Log(ctx context.Context, tenant, stepID uuid.UUID, fence *int64) (l Log, err error) {
	err = db.snapshot(ctx, tenant, func(tx pgx.Tx) error {
		l = Log{}
		wanted := fence
		var newest *int64
		var state run.State
		var pruned bool
		err := tx.QueryRow(ctx, `SELECT s.run_id, s.state, (SELECT max(fence) FROM nofx.attempt a WHERE a.tenant_id = s.tenant_id AND a.step_id = s.id),
				(SELECT r.pruned_seq IS NOT NULL FROM nofx.run r WHERE r.tenant_id = s.tenant_id AND r.id = s.run_id)
			FROM nofx.step s WHERE s.tenant_id = $1 AND s.id = $2`, tenant, stepID).Scan(&l.RunID, &state, &newest, &pruned)
		if err != nil {
			return missing(err, "step")
		}
		if wanted == nil {
			wanted = newest
		}
		if wanted == nil {
			l.Ended = state.Terminal()
			return nil
		}
		l.Fence = *wanted
		err = tx.QueryRow(ctx, "SELECT ended_at IS NOT NULL FROM nofx.attempt WHERE tenant_id = $1 AND step_id = $2 AND fence = $3",
			tenant, stepID, l.Fence).Scan(&l.Ended)
		if err != nil {
			if errors.Is(err, pgx.ErrNoRows) {
				return fault.New(fault.NotFound, "not-found", "the step has no attempt %d", l.Fence)
			}
			return err
		}
		rows, err := tx.Query(ctx, `SELECT n, start, bytes, lines, key, sha256 FROM nofx.log_chunk
			WHERE tenant_id = $1 AND step_id = $2 AND fence = $3 ORDER BY n`, tenant, stepID, l.Fence)
		if err != nil {
			return err
		}
		l.Chunks, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (c LogChunk, err error) {
			err = row.Scan(&c.N, &c.Start, &c.Bytes, &c.Lines, &c.Key, &c.SHA256)
			return c, err
		})
		// A later attempt, of a run that was tried again, has all of its own.
		if err == nil && pruned && l.Ended && (len(l.Chunks) == 0 || l.Chunks[0].Start > 0) {
			return fault.New(fault.Gone, "object-gone", "the log was deleted when the run's retention passed")
		}
		return err
	})
	return l, err
}
