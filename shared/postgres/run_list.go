package postgres

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"nofx.dev/shared/run"
)

// RunFilter selects runs; a zero field selects all, and all that are given must
// hold.
type RunFilter struct {
	Kind      run.Kind
	States    []run.State // any of them
	Project   string      // slug
	Labels    map[string]string
	Tool      string     // of a step of the plan; a family as gate:*
	Words     []string   // each somewhere in goal, name or reason, in any case
	Signature string     // of the failure
	Since     *time.Time // created at or after
	Until     *time.Time // created before

	Before *uuid.UUID    // of the page before, where it ended
	Limit  int           // runs at most
	Within time.Duration // how long to look
}

// idSlack is the largest difference between the clock that made an id and the database's
// clock.
const idSlack = 15 * time.Minute

// listedRun is a run without its plan, which lists do not show.
var listedRun = strings.Replace(runColumns, "r.plan,", "NULL::jsonb,", 1)

// Runs lists runs, newest first. more is the beginning of the next page, or nil. A search
// that finds little among many runs ends after f.Within with the runs found so far, perhaps
// none, and the next one continues from more.
func (db *DB) Runs(ctx context.Context, tenant uuid.UUID, f RunFilter) (list []run.Run, more *uuid.UUID, err error) {
	if f.searching() {
		release, err := db.searches.acquire(ctx, tenant)
		if err != nil {
			return nil, nil, err
		}
		defer release()
	}
	until := time.Now().Add(f.Within)
	err = db.tx(ctx, tenant, func(tx pgx.Tx) error {
		list, more = nil, nil
		project, known, err := projectID(ctx, tx, tenant, f.Project)
		if err != nil || !known {
			return err
		}
		list, more, err = page(ctx, tx, f.scan(tenant, project), scanRun, func(r run.Run) uuid.UUID { return r.ID }, f.Limit, until)
		return err
	})
	return list, more, err
}

// searching reports whether f has conditions that must be checked on each run.
func (f RunFilter) searching() bool {
	return f.Project != "" || len(f.Labels)+len(f.Words) > 0 || f.Tool != ""
}

// scan reads runs newest first.
func (f RunFilter) scan(tenant uuid.UUID, project *uuid.UUID) *scan {
	before := uuid.Max
	if f.Until != nil {
		before = idFrom(f.Until.Add(idSlack))
	}
	if f.Before != nil && bytes.Compare(f.Before[:], before[:]) < 0 {
		before = *f.Before
	}
	q := &query{args: []any{tenant, before}}
	s := &scan{slice: f.slice(q), order: "id DESC"}
	s.sliced = len(q.args)
	where, probe := "", ""
	switch {
	case strings.HasPrefix(s.slice, sliceOfSearch):
		where = " WHERE true" + f.search(q, "d", project)
	case f.searching():
		probe = " JOIN LATERAL (SELECT FROM nofx.run_search t WHERE t.tenant_id = $1 AND t.run_id = d.id" + f.search(q, "t", project) + " OFFSET 0) AS t ON true"
	}
	s.sql = "SELECT r.* FROM (" + s.slice + ") AS d" + probe +
		" JOIN LATERAL (SELECT " + listedRun + " WHERE r.tenant_id = $1 AND r.id = d.id AND r.expired_at IS NULL" + f.self(q) + " OFFSET 0) AS r ON true" +
		where + " ORDER BY d.id DESC LIMIT "
	s.args = q.args
	return s
}

const (
	sliceOfRuns   = "SELECT r.id FROM nofx.run r WHERE r.tenant_id = $1 AND r.id < $2"
	sliceOfSearch = "SELECT t.run_id AS id, t.project_id, t.tools, t.labels, t.words, t.reason FROM nofx.run_search t WHERE t.tenant_id = $1 AND t.run_id < $2"
)

// slice returns the newest ids from the most selective index: by signature, by state, by
// the searched columns, or of all runs.
func (f RunFilter) slice(q *query) string {
	since := uuid.Nil
	if f.Since != nil {
		since = idFrom(f.Since.Add(-idSlack))
	}
	from := q.arg(since)
	newest := fmt.Sprintf(" ORDER BY id DESC LIMIT %d", listSlice)
	switch {
	case f.Signature != "":
		return sliceOfRuns + " AND r.id >= " + from + " AND r.failure_signature = " + q.arg(f.Signature) + newest
	case len(f.States) > 0 && (!f.searching() || !slices.ContainsFunc(f.States, run.RunMachine.Terminal)): // few runs are live
		arms := make([]string, len(f.States))
		for i, state := range f.States {
			arms[i] = "(" + sliceOfRuns + " AND r.id >= " + from + " AND r.state = " + q.arg(state) + newest + ")"
		}
		return "SELECT id FROM (" + strings.Join(arms, " UNION ALL ") + ") AS a" + newest
	case f.searching():
		return sliceOfSearch + " AND t.run_id >= " + from + newest
	}
	return sliceOfRuns + " AND r.id >= " + from + newest
}

// search returns the conditions on a row of run_search.
func (f RunFilter) search(q *query, row string, project *uuid.UUID) string {
	var sql strings.Builder
	and := func(format string, args ...any) { fmt.Fprintf(&sql, " AND "+format, args...) }
	if project != nil {
		and("%s.project_id = %s", row, q.arg(*project))
	}
	if len(f.Labels) > 0 {
		labels, _ := json.Marshal(f.Labels) // of strings, which always encode
		and("%s.labels @> %s::jsonb", row, q.arg(string(labels)))
	}
	if family, ok := strings.CutSuffix(f.Tool, "*"); ok {
		and("EXISTS (SELECT FROM unnest(%s.tools) AS u (tool) WHERE starts_with(u.tool, %s))", row, q.arg(family))
	} else if f.Tool != "" {
		and("%s.tools @> ARRAY[%s]::text[]", row, q.arg(f.Tool))
	}
	for _, word := range f.Words {
		pattern := q.arg("%" + strings.NewReplacer(`\`, `\\`, `%`, `\%`, `_`, `\_`).Replace(word) + "%")
		and("(%[1]s.words LIKE lower(%[2]s) OR %[1]s.reason LIKE lower(%[2]s))", row, pattern)
	}
	return sql.String()
}

// self returns the conditions on the row of the run.
func (f RunFilter) self(q *query) (sql string) {
	if f.Kind != "" {
		sql += " AND r.kind = " + q.arg(f.Kind)
	}
	if len(f.States) > 0 {
		states := make([]string, len(f.States))
		for i, state := range f.States {
			states[i] = string(state)
		}
		sql += " AND r.state = ANY (" + q.arg(states) + ")"
	}
	if f.Since != nil {
		sql += " AND r.created_at >= " + q.arg(*f.Since)
	}
	if f.Until != nil {
		sql += " AND r.created_at < " + q.arg(*f.Until)
	}
	return sql
}

// idFrom returns the least id that is made at t.
func idFrom(t time.Time) (id uuid.UUID) {
	binary.BigEndian.PutUint64(id[:], uint64(max(0, t.UnixMilli()))<<16)
	return id
}

// RunsOfTrace lists the runs that belong to a trace, newest first, before one of
// them.
func (db *DB) RunsOfTrace(ctx context.Context, tenant uuid.UUID, traceID string, before *uuid.UUID, limit int) (list []run.Run, err error) {
	q := query{sql: "SELECT " + listedRun + " WHERE r.tenant_id = $1 AND r.trace_id = $2::char(32)", args: []any{tenant, traceID}}
	q.and(before != nil, "r.id < ?", before)
	q.end("ORDER BY r.id DESC LIMIT ?", limit)
	err = db.tx(ctx, tenant, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, q.sql, q.args...)
		if err != nil {
			return err
		}
		list, err = pgx.CollectRows(rows, scanRun)
		return err
	})
	return list, err
}
