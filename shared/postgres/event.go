package postgres

import (
	"context"
	"strings"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"nofx.dev/shared/run"
)

// eventColumns are those of scanEvent. Only a feed has to know projects.
func eventColumns(project string) string {
	return `e.run_id, e.tenant_id, e.seq, e.step_id, coalesce(s.name, ''), e.type, coalesce(e.event, ''), coalesce(e.from_state, ''), coalesce(e.to_state, ''),
	coalesce(e.reason, ''), e.actor, coalesce(nofx.subject_name(e.tenant_id, e.actor), ''), jsonb_strip_nulls(jsonb_build_object(
		'from', e.from_state, 'to', e.to_state, 'event', e.event, 'reason', e.reason, 'step', s.name, 'fence', e.fence)) || e.data, e.trace_id, coalesce(e.span_id, ''), e.fence, e.at, e.xid::text::bigint, ` + project + `
	FROM nofx.event e LEFT JOIN nofx.step s ON s.tenant_id = e.tenant_id AND s.id = e.step_id`
}

const projectOfEvent = `(SELECT p.slug FROM nofx.run r JOIN nofx.project p ON p.tenant_id = r.tenant_id AND p.id = r.project_id
	WHERE r.tenant_id = e.tenant_id AND r.id = e.run_id)`

func scanEvent(row pgx.CollectableRow) (e run.Event, err error) {
	err = row.Scan(&e.RunID, &e.TenantID, &e.Seq, &e.StepID, &e.StepName, &e.Type, &e.Event, &e.FromState, &e.ToState,
		&e.Reason, &e.Actor, &e.ActorName, &e.Data, &e.TraceID, &e.SpanID, &e.Fence, &e.At, &e.XID, &e.Project)
	return e, err
}

// likePatterns turns types such as "step.*" and "gate.failed" into LIKE
// patterns; none match every type.
func likePatterns(types []string) []string {
	escape := strings.NewReplacer(`\`, `\\`, `%`, `\%`, `_`, `\_`)
	patterns := make([]string, 0, len(types))
	for _, t := range types {
		p := escape.Replace(t)
		if family, ok := strings.CutSuffix(p, "*"); ok {
			p = family + "%"
		}
		patterns = append(patterns, p)
	}
	if len(patterns) == 0 {
		return []string{"%"}
	}
	return patterns
}

// Events lists the events of a run with a seq above after, in order. Types are
// exact or end in *; none select all. An unknown run is fault.NotFound, and
// fault.Gone (cursor-expired, see [OldestKept]) says that some of them were deleted.
func (db *DB) Events(ctx context.Context, tenant, runID uuid.UUID, after int64, types []string, limit int) (list []run.Event, err error) {
	err = db.tx(ctx, tenant, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, "SELECT "+eventColumns("''")+`
			WHERE e.tenant_id = $1 AND e.run_id = $2 AND e.seq > $3 AND e.type LIKE ANY ($4)
			ORDER BY e.seq LIMIT $5`, tenant, runID, after, likePatterns(types), limit)
		if err != nil {
			return err
		}
		if list, err = pgx.CollectRows(rows, scanEvent); err != nil {
			return err
		}
		// Asked last: what was deleted before the events were read is known to it.
		var pruned *int64
		err = tx.QueryRow(ctx, "SELECT pruned_seq FROM nofx.run WHERE tenant_id = $1 AND id = $2", tenant, runID).Scan(&pruned)
		if err == nil && pruned != nil && after < *pruned {
			return expired(FeedCursor{Seq: *pruned})
		}
		return missing(err, "run")
	})
	return list, err
}

// FeedCursor is a place in a tenant's feed: after this event of the transaction
// XID. Transactions that were still running when it was made come after it.
type FeedCursor struct {
	XID int64
	Run uuid.UUID
	Seq int64
}

// FeedFilter selects events of a feed; a zero field selects all.
type FeedFilter struct {
	Runs    []uuid.UUID
	Types   []string // as in Events
	Project string
}

// FeedHead is the place from which on nothing is missed that commits from now.
func (db *DB) FeedHead(ctx context.Context, tenant uuid.UUID) (c FeedCursor, err error) {
	err = db.tx(ctx, tenant, func(tx pgx.Tx) error {
		return tx.QueryRow(ctx, "SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint").Scan(&c.XID)
	})
	return c, err
}

// Feed lists the events of a tenant after a cursor, over all its runs, and the
// cursor to go on from, which advances past what the filter skipped. It stays
// behind the oldest transaction still running: a cursor over a plain sequence
// skips what commits late (RELIABILITY.md, R9). The zero cursor is before the
// oldest event of the feed, which begins behind the newest one that was deleted;
// any other cursor before that is fault.Gone (cursor-expired, see [OldestKept]).
func (db *DB) Feed(ctx context.Context, tenant uuid.UUID, f FeedFilter, after FeedCursor, limit int) (list []run.Event, next FeedCursor, err error) {
	err = db.snapshot(ctx, tenant, func(tx pgx.Tx) error {
		var horizon, pruned int64
		if err := tx.QueryRow(ctx, `SELECT pg_snapshot_xmin(pg_current_snapshot())::text::bigint,
			coalesce((SELECT h.xid::text::bigint FROM nofx.event_horizon h WHERE h.tenant_id = $1), 0)`, tenant).Scan(&horizon, &pruned); err != nil {
			return err
		}
		after := after
		if oldest := (FeedCursor{XID: pruned + 1}); pruned > 0 && after == (FeedCursor{}) {
			after = oldest
		} else if after.XID <= pruned && pruned > 0 {
			return expired(oldest)
		}
		rows, err := tx.Query(ctx, "SELECT "+eventColumns(projectOfEvent)+`
			WHERE e.tenant_id = $1 AND (e.xid, e.run_id, e.seq) > ($2::bigint::text::xid8, $3, $4) AND e.xid < $5::bigint::text::xid8
			  AND e.type LIKE ANY ($6) AND ($7::uuid[] IS NULL OR e.run_id = ANY ($7))
			  AND ($8 = '' OR e.run_id IN (SELECT r.id FROM nofx.run r JOIN nofx.project p ON p.tenant_id = r.tenant_id AND p.id = r.project_id
			                               WHERE r.tenant_id = $1 AND p.slug = $8))
			ORDER BY e.xid, e.run_id, e.seq LIMIT $9`,
			tenant, after.XID, after.Run, after.Seq, horizon, likePatterns(f.Types), f.Runs, f.Project, limit)
		if err != nil {
			return err
		}
		if list, err = pgx.CollectRows(rows, scanEvent); err != nil {
			return err
		}
		next = after
		switch {
		case len(list) == limit:
			last := list[len(list)-1]
			next = FeedCursor{last.XID, last.RunID, last.Seq}
		case horizon > after.XID:
			next = FeedCursor{XID: horizon} // nothing of a transaction before it is left
		}
		return nil
	})
	return list, next, err
}

// RunRef names a run of a tenant.
type RunRef struct {
	Tenant uuid.UUID
	Run    uuid.UUID
}

// EventHeads is the newest seq of each of the runs that exist.
func (db *DB) EventHeads(ctx context.Context, refs []RunRef) (map[uuid.UUID]int64, error) {
	tenants := make([]uuid.UUID, len(refs))
	runs := make([]uuid.UUID, len(refs))
	for i, r := range refs {
		tenants[i], runs[i] = r.Tenant, r.Run
	}
	type head struct {
		Run uuid.UUID
		Seq int64
	}
	rows, err := across(ctx, db, pgx.RowToStructByPos[head], "SELECT run_id, event_seq FROM nofx.event_heads($1, $2)", tenants, runs)
	heads := make(map[uuid.UUID]int64, len(rows))
	for _, h := range rows {
		heads[h.Run] = h.Seq
	}
	return heads, err
}
