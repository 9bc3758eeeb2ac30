package postgres

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/run"
	"nofx.dev/shared/tree"
)

// LogChunk is a stored piece of an attempt's log.
type LogChunk struct {
	N      int
	Start  int64 // offset of its first byte
	Bytes  int64
	Lines  int
	Key    string
	SHA256 []byte
	Mark   string // the text of a chunk that reports lost bytes; it has no object
}

// Log is the stored part of the log of one attempt.
type Log struct {
	RunID  uuid.UUID
	Fence  int64 // 0: the step was not tried yet
	Ended  bool  // nothing will be added
	Size   int64 // bytes stored
	Chunks []LogChunk
}

// RecordLogChunk inserts a chunk, whose object is stored, and its event, once.
// fault.Fenced means that the lease is lost.
func (db *DB) RecordLogChunk(ctx context.Context, c *Claim, l LogChunk) error {
	return db.tx(ctx, c.TenantID, func(tx pgx.Tx) error {
		insertBlobs(tx, c.TenantID, nil, []tree.Object{{Key: l.Key, SHA256: [32]byte(l.SHA256), Bytes: l.Bytes, Kind: "log"}})
		queue(tx, "SELECT nofx.record_log_chunk($1, $2, $3, $4, $5, $6, $7, $8)",
			c.StepID, c.Fence, l.N, l.Start, l.Bytes, l.Lines, l.Key, l.SHA256)
		return nil
	})
}

// MarkLog ends the log of c's attempt, which should have size bytes, with a line that gives
// the number of missing bytes, if any are missing. fault.Fenced means that the lease is
// lost.
func (db *DB) MarkLog(ctx context.Context, c *Claim, size int64) error {
	return db.tx(ctx, c.TenantID, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "SELECT nofx.mark_log($1, $2, $3)", c.StepID, c.Fence, size)
		return err
	})
}

// Log lists the chunks of one attempt, of the latest when fence is nil: in their
// order those that hold bytes from offset from on, at most limit of them unless that
// is 0. fault.NotFound for an unknown step or attempt, fault.Gone (object-gone) for a
// log that was deleted when the run's retention passed. The log of a restored step is
// that of the step that ran.
func (db *DB) Log(ctx context.Context, tenant, id uuid.UUID, fence *int64, from int64, limit int) (l Log, err error) {
	err = db.snapshot(ctx, tenant, func(tx pgx.Tx) error {
		l = Log{}
		wanted, stepID := fence, id
		var newest *int64
		var state run.State
		var pruned *int64
		err := tx.QueryRow(ctx, `SELECT s.id, s.run_id, s.state, (SELECT max(fence) FROM nofx.attempt a WHERE a.tenant_id = s.tenant_id AND a.step_id = s.id),
				(SELECT r.pruned_seq FROM nofx.run r WHERE r.tenant_id = s.tenant_id AND r.id = s.run_id)
			FROM nofx.step b, LATERAL (SELECT z.tenant_id, z.id, z.run_id, z.state FROM nofx.step z
				WHERE z.tenant_id = b.tenant_id AND z.id = coalesce(b.restored_from, b.id) OFFSET 0) AS s
			WHERE b.tenant_id = $1 AND b.id = $2`, tenant, id).Scan(&stepID, &l.RunID, &state, &newest, &pruned)
		if err != nil {
			return missing(err, "step")
		}
		if wanted == nil {
			wanted = newest
		}
		if wanted == nil {
			l.Ended = run.StepMachine.Terminal(state)
			return nil
		}
		l.Fence = *wanted
		var start *int64 // of the first chunk there is
		err = tx.QueryRow(ctx, `SELECT a.ended_at IS NOT NULL,
				coalesce((SELECT c.start + c.bytes FROM nofx.log_chunk c WHERE c.tenant_id = a.tenant_id AND c.step_id = a.step_id AND c.fence = a.fence ORDER BY c.n DESC LIMIT 1), 0),
				(SELECT c.start FROM nofx.log_chunk c WHERE c.tenant_id = a.tenant_id AND c.step_id = a.step_id AND c.fence = a.fence ORDER BY c.n LIMIT 1)
			FROM nofx.attempt a WHERE a.tenant_id = $1 AND a.step_id = $2 AND a.fence = $3`, tenant, stepID, l.Fence).Scan(&l.Ended, &l.Size, &start)
		if err != nil {
			if errors.Is(err, pgx.ErrNoRows) {
				return noAttempt(ctx, tx, tenant, stepID, l.Fence)
			}
			return err
		}
		if pruned != nil && l.Ended {
			gone := start != nil && *start > 0
			if start == nil {
				if gone, err = logGone(ctx, tx, tenant, l.RunID, stepID, l.Fence, *pruned); err != nil {
					return err
				}
			}
			if gone {
				return fault.New(fault.Gone, "object-gone", "the log was deleted at the end of the run's retention")
			}
		}
		rows, err := tx.Query(ctx, `SELECT n, start, bytes, lines, coalesce(key, ''), sha256, coalesce(mark, '') FROM nofx.log_chunk
			WHERE tenant_id = $1 AND step_id = $2 AND fence = $3 AND start + bytes > $4 ORDER BY n LIMIT nullif($5, 0)`, tenant, stepID, l.Fence, from, limit)
		if err != nil {
			return err
		}
		l.Chunks, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (c LogChunk, err error) {
			err = row.Scan(&c.N, &c.Start, &c.Bytes, &c.Lines, &c.Key, &c.SHA256, &c.Mark)
			return c, err
		})
		return err
	})
	return l, err
}

// noAttempt returns an error that names the attempts there are in place of one that is not there.
func noAttempt(ctx context.Context, tx pgx.Tx, tenant, stepID uuid.UUID, fence int64) error {
	const most = 20
	rows, err := tx.Query(ctx, `SELECT fence::text FROM nofx.attempt WHERE tenant_id = $1 AND step_id = $2 ORDER BY fence DESC LIMIT $3`, tenant, stepID, most+1)
	if err != nil {
		return err
	}
	fences, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err
	}
	there := "it has none"
	if len(fences) > 0 {
		slices.Reverse(fences)
		if len(fences) > most {
			fences[0] = "…"
		}
		there = "it has " + strings.Join(fences, ", ")
	}
	return fault.New(fault.NotFound, "not-found", "the step has no attempt with the fence %d; %s", fence, there)
}

// logGone reports whether a log without chunks had some before its run was pruned up
// to that seq. An attempt of later, when the run was tried again, has all its events,
// and of those that tell of chunks none.
func logGone(ctx context.Context, tx pgx.Tx, tenant, runID, stepID uuid.UUID, fence, pruned int64) (gone bool, err error) {
	err = tx.QueryRow(ctx, `SELECT NOT coalesce(bool_or(type = 'step.running'), false) OR bool_or(type = 'step.log') FROM nofx.event
		WHERE tenant_id = $1 AND run_id = $2 AND seq > $3 AND step_id = $4 AND fence = $5`, tenant, runID, pruned, stepID, fence).Scan(&gone)
	return gone, err
}
