package postgres

import (
	"context"
	"encoding/json"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"nofx.dev/shared/run"
)

// maxShown bounds what the outputs of the steps that are listed together, and the
// evidence of gates, may sum up to, in bytes: a thousand of either fit nowhere.
const maxShown = 1 << 20

// stepColumns are the columns of scanStep.
var stepColumns = stepColumnsWith("true")

// outputsColumn is the outputs of step s: of a restored one those of the step that ran,
// unless they were edited.
const outputsColumn = `CASE WHEN s.outputs IS NULL AND s.restored_from IS NOT NULL
	THEN (SELECT o.outputs FROM nofx.step o WHERE o.tenant_id = s.tenant_id AND o.id = s.restored_from) ELSE s.outputs END`

// stepColumnsWith returns stepColumns with the outputs only of steps for which a condition
// holds.
func stepColumnsWith(shown string) string {
	return `s.id, s.run_id, s.idx, s.name, s.tool, s.queue, s.state, s.version, s.fence,
	CASE WHEN s.restored_from IS NULL THEN s.attempt ELSE (SELECT o.attempt FROM nofx.step o WHERE o.tenant_id = s.tenant_id AND o.id = s.restored_from) END, s.max_attempts,
	CASE WHEN s.fence > 0 OR s.restored_from IS NOT NULL
		THEN (SELECT count(*) FROM nofx.attempt a WHERE a.tenant_id = s.tenant_id AND a.step_id = coalesce(s.restored_from, s.id)) ELSE 0 END,
	ARRAY(SELECT n.name FROM nofx.step_dep d JOIN nofx.step n ON n.tenant_id = d.tenant_id AND n.id = d.needs
	      WHERE d.tenant_id = s.tenant_id AND d.step_id = s.id ORDER BY n.idx),
	coalesce(s.failure_class, ''), coalesce(s.reason, ''), CASE WHEN ` + shown + ` THEN ` + outputsColumn + ` END, s.outputs_bytes IS NOT NULL AND NOT (` + shown + `), s.restored_from,
	s.ready_at, s.wait_until,
	coalesce(CASE WHEN s.state = 'waiting' THEN (SELECT w.correlation FROM nofx.wait w
		WHERE w.tenant_id = s.tenant_id AND w.step_id = s.id ORDER BY w.round DESC LIMIT 1) END, ''),
	s.started_at, s.finished_at
	FROM nofx.step s`
}

func scanStep(row pgx.CollectableRow) (s run.Step, err error) {
	err = row.Scan(&s.ID, &s.RunID, &s.Index, &s.Name, &s.Tool, &s.Queue, &s.State, &s.Version, &s.Fence, &s.Attempt, &s.MaxAttempts,
		&s.Attempts, &s.DependsOn, &s.FailureClass, &s.Reason, &s.Outputs, &s.OutputsOmitted, &s.RestoredFrom, &s.ReadyAt, &s.WaitUntil, &s.SignalKey, &s.StartedAt, &s.FinishedAt)
	return s, err
}

// stepsOfRun lists at most limit steps of a run, those after an index, with the
// outputs of the first of them, up to maxShown.
func stepsOfRun(ctx context.Context, tx pgx.Tx, tenant, runID uuid.UUID, afterIndex, limit int) ([]run.Step, error) {
	rows, err := tx.Query(ctx, "SELECT "+stepColumnsWith("sum(s.outputs_bytes) OVER (ORDER BY s.idx) <= $5")+`
		WHERE s.tenant_id = $1 AND s.run_id = $2 AND s.idx > $3 ORDER BY s.idx LIMIT $4`, tenant, runID, afterIndex, limit, maxShown)
	if err != nil {
		return nil, err
	}
	steps, err := pgx.CollectRows(rows, scanStep)
	if err != nil {
		return nil, err
	}
	if err := missingWorkers(ctx, tx, steps); err != nil {
		return nil, err
	}
	return steps, holders(ctx, tx, steps)
}

// Steps lists the steps of a run in plan order, those after an index (-1: from
// the first), with their outputs as long as they are 1 MiB in sum. An unknown run is fault.NotFound.
func (db *DB) Steps(ctx context.Context, tenant, runID uuid.UUID, afterIndex, limit int) (list []run.Step, err error) {
	err = db.tx(ctx, tenant, func(tx pgx.Tx) error {
		if _, err := oneRun(ctx, tx, tenant, runID); err != nil {
			return err
		}
		list, err = stepsOfRun(ctx, tx, tenant, runID, afterIndex, limit)
		return err
	})
	return list, err
}

// CountSteps returns how many steps a run has, by its id or that of a step of it; 0
// when there is none.
func (db *DB) CountSteps(ctx context.Context, tenant, id uuid.UUID) (n int, err error) {
	err = db.tx(ctx, tenant, func(tx pgx.Tx) error {
		return tx.QueryRow(ctx, `SELECT coalesce(max(idx) + 1, 0) FROM nofx.step
			WHERE tenant_id = $1 AND run_id = coalesce((SELECT s.run_id FROM nofx.step s WHERE s.tenant_id = $1 AND s.id = $2), $2)`, tenant, id).Scan(&n)
	})
	return n, err
}

// Step returns one step with its attempts in order, or fault.NotFound. The attempts of a
// restored step are those of the step that ran.
func (db *DB) Step(ctx context.Context, tenant, id uuid.UUID) (s run.Step, attempts []run.Attempt, err error) {
	err = db.snapshot(ctx, tenant, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, "SELECT "+stepColumns+" WHERE s.tenant_id = $1 AND s.id = $2", tenant, id)
		if err != nil {
			return err
		}
		if s, err = pgx.CollectExactlyOneRow(rows, scanStep); err != nil {
			return missing(err, "step")
		}
		one := []run.Step{s}
		if err := missingWorkers(ctx, tx, one); err != nil {
			return err
		}
		if err := holders(ctx, tx, one); err != nil {
			return err
		}
		s = one[0]
		rows, err = tx.Query(ctx, "SELECT "+attemptColumns+" FROM nofx.attempt a WHERE a.tenant_id = $1 AND a.step_id = $2 ORDER BY a.fence", tenant, ranStep(s))
		if err != nil {
			return err
		}
		attempts, err = pgx.CollectRows(rows, func(row pgx.CollectableRow) (a run.Attempt, err error) {
			err = row.Scan(attemptFields(&a)...)
			return a, err
		})
		return err
	})
	return s, attempts, err
}

// ranStep returns the step whose attempts and log are those of s.
func ranStep(s run.Step) uuid.UUID {
	if s.RestoredFrom != nil {
		return *s.RestoredFrom
	}
	return s.ID
}

// StepTool returns the tool of a step, or fault.NotFound.
func (db *DB) StepTool(ctx context.Context, tenant, id uuid.UUID) (tool string, err error) {
	err = db.tx(ctx, tenant, func(tx pgx.Tx) error {
		err := tx.QueryRow(ctx, "SELECT tool FROM nofx.step WHERE tenant_id = $1 AND id = $2", tenant, id).Scan(&tool)
		return missing(err, "step")
	})
	return tool, err
}

// StepOutputs returns the outputs of a step of a run by its name: an object, or nil
// where it has none. fault.NotFound for an unknown step.
func (db *DB) StepOutputs(ctx context.Context, tenant, runID uuid.UUID, name string) (outputs json.RawMessage, err error) {
	err = db.tx(ctx, tenant, func(tx pgx.Tx) error {
		outputs = nil
		err := tx.QueryRow(ctx, "SELECT "+outputsColumn+" FROM nofx.step s WHERE s.tenant_id = $1 AND s.run_id = $2 AND s.name = $3", tenant, runID, name).Scan(&outputs)
		return missing(err, "step")
	})
	return outputs, err
}
