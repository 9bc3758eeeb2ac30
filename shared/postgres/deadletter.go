package postgres

import (
	"context"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"nofx.dev/shared/run"
)

// DeadLetter is a step that was given up, with its run: its attempts are used up,
// or it took its worker down too often.
type DeadLetter struct {
	Step run.Step
	Run  run.Run
}

// DeadLetterFilter selects dead letters; a zero field selects all.
type DeadLetterFilter struct {
	Tool    string
	Class   run.FailureClass // exhausted or poisoned
	Project string           // its slug
	Before  *uuid.UUID       // of the page before, its last step
	Limit   int
}

// DeadLetters lists the steps of tenant that failed for good, those of the newest runs
// first.
func (db *DB) DeadLetters(ctx context.Context, tenant uuid.UUID, f DeadLetterFilter) (list []DeadLetter, err error) {
	if f.Tool != "" || f.Class != "" || f.Project != "" {
		release, err := db.searches.acquire(ctx, tenant)
		if err != nil {
			return nil, err
		}
		defer release()
	}
	q := query{sql: "SELECT " + stepColumns + ` JOIN nofx.run r ON r.tenant_id = s.tenant_id AND r.id = s.run_id
		JOIN nofx.project p ON p.tenant_id = r.tenant_id AND p.id = r.project_id
		WHERE s.tenant_id = $1 AND s.failure_class IN ('exhausted', 'poisoned') AND s.state = 'failed'`, args: []any{tenant}}
	q.and(f.Tool != "", "s.tool = ?", f.Tool)
	q.and(f.Class != "", "s.failure_class = ?", f.Class)
	q.and(f.Project != "", "p.slug = ?", f.Project)
	q.and(f.Before != nil, "s.id < ?", f.Before)
	q.end("ORDER BY s.id DESC LIMIT ?", f.Limit)
	err = db.snapshot(ctx, tenant, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, q.sql, q.args...)
		if err != nil {
			return err
		}
		steps, err := pgx.CollectRows(rows, scanStep)
		if err != nil {
			return err
		}
		ids := make([]uuid.UUID, len(steps))
		for i, s := range steps {
			ids[i] = s.RunID
		}
		if rows, err = tx.Query(ctx, "SELECT "+runColumns+" WHERE r.tenant_id = $1 AND r.id = ANY ($2)", tenant, ids); err != nil {
			return err
		}
		runs, err := pgx.CollectRows(rows, scanRun)
		if err != nil {
			return err
		}
		of := make(map[uuid.UUID]run.Run, len(runs))
		for _, r := range runs {
			of[r.ID] = r
		}
		list = make([]DeadLetter, len(steps))
		for i, s := range steps {
			list[i] = DeadLetter{s, of[s.RunID]}
		}
		return nil
	})
	return list, err
}
