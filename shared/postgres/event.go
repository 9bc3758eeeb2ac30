package postgres

import (
	"context"
	"strings"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"nofx.dev/shared/run"
)

// eventColumns returns the columns of scanEvent, of an event e and its step s. Only feeds
// need projects.
func eventColumns(project string) string {
	return `e.run_id, e.tenant_id, e.seq, e.step_id, coalesce(s.name, ''), e.type, coalesce(e.event, ''), coalesce(e.from_state, ''), coalesce(e.to_state, ''),
	coalesce(e.reason, ''), e.actor, coalesce(nofx.subject_name(e.tenant_id, e.actor), ''), jsonb_strip_nulls(jsonb_build_object(
		'from', e.from_state, 'to', e.to_state, 'event', e.event, 'reason', e.reason, 'step', s.name, 'fence', e.fence)) || e.data, e.trace_id, coalesce(e.span_id, ''), e.fence, e.at, e.xid::text::bigint, ` + project
}

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
			FROM nofx.event e LEFT JOIN nofx.step s ON s.tenant_id = e.tenant_id AND s.id = e.step_id
			WHERE e.tenant_id = $1 AND e.run_id = $2 AND e.seq > $3 AND e.type LIKE ANY ($4)
			ORDER BY e.seq LIMIT $5`, tenant, runID, after, likePatterns(types), limit)
		if err != nil {
			return err
		}
		if list, err = pgx.CollectRows(rows, scanEvent); err != nil {
			return err
		}
		// This is read last, so that it includes all deletions before the read of the
		// events.
		var pruned *int64
		err = tx.QueryRow(ctx, "SELECT pruned_seq FROM nofx.run WHERE tenant_id = $1 AND id = $2", tenant, runID).Scan(&pruned)
		if err == nil && pruned != nil && after < *pruned {
			return expired(FeedCursor{Seq: *pruned})
		}
		return missing(err, "run")
	})
	return list, err
}

// RunRef names a run of a tenant.
type RunRef struct {
	Tenant uuid.UUID
	Run    uuid.UUID
}

// EventHeads returns the newest seq of each of the runs that exist.
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
