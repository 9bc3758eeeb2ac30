package postgres

import (
	"context"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"nofx.dev/shared/run"
)

// attemptColumns are those of scanAttempt.
const attemptColumns = `a.fence, a.owner, a.owner_pid, a.started_at, a.ended_at, a.accepted, coalesce(a.outcome, ''), a.exit_code, a.usage, a.trace_id, a.span_id`

func attemptFields(a *run.Attempt) []any {
	return []any{&a.Fence, &a.Owner, &a.OwnerPID, &a.StartedAt, &a.EndedAt, &a.Accepted, &a.Outcome, &a.ExitCode, &a.Usage, &a.TraceID, &a.SpanID}
}

// Timeline returns a run with all that its steps did, of one moment, or
// fault.NotFound. It asks four questions, however many steps there are.
func (db *DB) Timeline(ctx context.Context, tenant, runID uuid.UUID) (t run.Timeline, err error) {
	err = db.snapshot(ctx, tenant, func(tx pgx.Tx) error {
		t = run.Timeline{}
		if t.Run, err = oneRun(ctx, tx, tenant, runID); err != nil {
			return err
		}
		steps, err := stepsOfRun(ctx, tx, tenant, runID, -1, run.MaxSteps+1)
		if err != nil {
			return err
		}
		t.Rows = make([]run.TimelineRow, len(steps))
		of := make(map[uuid.UUID]*run.TimelineRow, len(steps))
		for i, s := range steps {
			t.Rows[i].Step = s
			of[s.ID] = &t.Rows[i]
		}
		if err := attemptsOfRun(ctx, tx, tenant, runID, of); err != nil {
			return err
		}
		if err := spansOfRun(ctx, tx, tenant, runID, of); err != nil {
			return err
		}
		return tx.QueryRow(ctx, "SELECT now()").Scan(&t.At) // before the snapshot, and so before no end of it
	})
	return t, err
}

func attemptsOfRun(ctx context.Context, tx pgx.Tx, tenant, runID uuid.UUID, of map[uuid.UUID]*run.TimelineRow) error {
	rows, err := tx.Query(ctx, "SELECT a.step_id, "+attemptColumns+`
		FROM nofx.step s JOIN nofx.attempt a ON a.tenant_id = s.tenant_id AND a.step_id = s.id
		WHERE s.tenant_id = $1 AND s.run_id = $2 ORDER BY a.step_id, a.fence`, tenant, runID)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		var step uuid.UUID
		var a run.TimedAttempt
		if err := rows.Scan(append([]any{&step}, attemptFields(&a.Attempt)...)...); err != nil {
			return err
		}
		of[step].Attempts = append(of[step].Attempts, a)
	}
	return rows.Err()
}

// spansOfRun reads from the events of a run's steps which states they were in, and
// how long they had waited at each claim.
func spansOfRun(ctx context.Context, tx pgx.Tx, tenant, runID uuid.UUID, of map[uuid.UUID]*run.TimelineRow) error {
	rows, err := tx.Query(ctx, `SELECT e.step_id, e.to_state, e.at, e.fence, (e.data->>'wait_ms')::bigint
		FROM nofx.event e WHERE e.tenant_id = $1 AND e.run_id = $2 AND e.step_id IS NOT NULL AND e.type = 'step.' || e.to_state
		ORDER BY e.seq`, tenant, runID)
	if err != nil {
		return err
	}
	var (
		step   uuid.UUID
		state  run.State
		at     time.Time
		fence  *int64
		waited *int64
	)
	_, err = pgx.ForEachRow(rows, []any{&step, &state, &at, &fence, &waited}, func() error {
		row := of[step]
		if n := len(row.Spans); n > 0 && row.Spans[n-1].End == nil {
			end := at
			row.Spans[n-1].End = &end
		}
		if state != run.Pending && !run.StepMachine.Terminal(state) {
			row.Spans = append(row.Spans, run.Span{State: state, Start: at})
		}
		if waited != nil && fence != nil {
			for i := range row.Attempts {
				if a := &row.Attempts[i]; a.Fence == *fence {
					a.Wait = time.Duration(max(0, *waited)) * time.Millisecond
				}
			}
		}
		return nil
	})
	return err
}
