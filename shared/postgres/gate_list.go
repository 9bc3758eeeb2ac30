package postgres

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"nofx.dev/shared/run"
)

// GateFilter selects gates; a zero field selects all.
type GateFilter struct {
	State   run.State
	Kind    run.GateKind
	Name    string // of the gate or its step
	Project string // slug

	After  *uuid.UUID    // of the page before, where it ended
	Limit  int           // gates at most
	Within time.Duration // how long to look
}

func (f GateFilter) searching() bool { return f.Kind != "" || f.Name != "" || f.Project != "" }

// Gates lists gates of all runs of tenant, oldest first. more is the beginning of the next
// page, or nil. A search that finds little among many gates ends after f.Within with the
// gates found so far, perhaps none, and the next one continues from more.
func (db *DB) Gates(ctx context.Context, tenant uuid.UUID, f GateFilter) (list []run.Gate, more *uuid.UUID, err error) {
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
		list, more, err = page(ctx, tx, f.scan(tenant, project), scanGate, func(g run.Gate) uuid.UUID { return g.ID }, f.Limit, until)
		return err
	})
	return list, more, err
}

// scan reads gates oldest first: by state their inbox, else all.
func (f GateFilter) scan(tenant uuid.UUID, project *uuid.UUID) *scan {
	after := uuid.Nil
	if f.After != nil {
		after = *f.After
	}
	q := &query{args: []any{tenant, after}}
	slice := "SELECT g.id, g.run_id, g.step_id, g.kind, g.name FROM nofx.gate g WHERE g.tenant_id = $1 AND g.id > $2"
	if f.State != "" {
		slice += " AND g.state = " + q.arg(f.State)
	}
	s := &scan{slice: slice + fmt.Sprintf(" ORDER BY id LIMIT %d", listSlice), order: "id", sliced: len(q.args)}
	where, probe := " WHERE true", ""
	if f.Kind != "" {
		where += " AND d.kind = " + q.arg(f.Kind)
	}
	if f.Name != "" {
		name := q.arg(f.Name)
		probe += " JOIN LATERAL (SELECT s.name FROM nofx.step s WHERE s.tenant_id = $1 AND s.id = d.step_id OFFSET 0) AS s ON true"
		where += " AND (d.name = " + name + " OR s.name = " + name + ")"
	}
	if project != nil {
		probe += " JOIN LATERAL (SELECT FROM nofx.run r WHERE r.tenant_id = $1 AND r.id = d.run_id AND r.project_id = " + q.arg(*project) + " OFFSET 0) AS r ON true"
	}
	s.sql = "SELECT g.* FROM (" + s.slice + ") AS d" + probe +
		" JOIN LATERAL (SELECT " + gateColumns + " WHERE g.tenant_id = $1 AND g.id = d.id OFFSET 0) AS g ON true" +
		where + " ORDER BY d.id LIMIT "
	s.args = q.args
	return s
}
