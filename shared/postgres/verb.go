package postgres

import (
	"context"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"nofx.dev/shared/run"
)

// Verb is a request to steer a run or a step, with its reason.
type Verb struct {
	Reason  string
	Version *int64 // refuse with fault.Conflict (stale-version) unless the run is at it
}

// CancelRun ends a live run and all its steps that have not ended; running steps lose their
// lease, and jobs that no worker has taken are deleted. A run that has ended is
// fault.Conflict (illegal-transition).
func (db *DB) CancelRun(ctx context.Context, tenant, id uuid.UUID, v Verb) (r run.Run, err error) {
	err = db.tx(ctx, tenant, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "SELECT nofx.end_run($1, 'cancel', $2, $3, 'cancelled')", id, nullable(v.Reason), v.Version); err != nil {
			return err
		}
		// An array, since for a join the planner may choose to read the whole table.
		queue(tx, `DELETE FROM river.river_job WHERE state = 'available' AND id = ANY (ARRAY(
			SELECT job_id FROM nofx.step WHERE tenant_id = $1 AND run_id = $2 AND state = 'cancelled' AND job_id IS NOT NULL))`, tenant, id)
		r, err = oneRun(ctx, tx, tenant, id)
		return err
	})
	return r, err
}

// PauseRun stops workers from claiming steps of a live run. Running steps may end, and
// waits continue, but the clock of the run's deadline stops. Anything but a live run is
// fault.Conflict (illegal-transition).
func (db *DB) PauseRun(ctx context.Context, tenant, id uuid.UUID, v Verb) (run.Run, error) {
	return db.verb(ctx, tenant, id, "SELECT nofx.run_transition($1, 'pause', $2, $3)", v)
}

// ResumeRun continues a paused run where it stands. A run that failed or was cancelled
// continues from its last checkpoints with all steps that had not succeeded. Any other is
// fault.Conflict (illegal-transition).
func (db *DB) ResumeRun(ctx context.Context, tenant, id uuid.UUID, v Verb) (run.Run, error) {
	return db.verb(ctx, tenant, id, "SELECT nofx.reopen_run($1, 'resume', $2, $3)", v)
}

// RetryRun lets the failed steps of a run that failed or was cancelled run again, and the
// steps that were skipped or cancelled after them. Any other run is fault.Conflict
// (illegal-transition).
func (db *DB) RetryRun(ctx context.Context, tenant, id uuid.UUID, v Verb) (run.Run, error) {
	return db.verb(ctx, tenant, id, "SELECT nofx.reopen_run($1, 'retry', $2, $3)", v)
}

func (db *DB) verb(ctx context.Context, tenant, id uuid.UUID, call string, v Verb) (r run.Run, err error) {
	err = db.tx(ctx, tenant, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, call, id, nullable(v.Reason), v.Version); err != nil {
			return err
		}
		if err := db.enqueueReady(ctx, tx, tenant, id); err != nil {
			return err
		}
		r, err = oneRun(ctx, tx, tenant, id)
		return err
	})
	return r, err
}

// RetryStep lets a failed step run again, with its full number of attempts, and continues
// its run. With cascade its dependents get their turn: the skipped and cancelled steps
// below it, and steps left out only because the run was failing, except steps that also
// wait for another failed step. A step that has not failed is fault.Conflict
// (illegal-transition).
func (db *DB) RetryStep(ctx context.Context, tenant, id uuid.UUID, cascade bool, reason string) (s run.Step, r run.Run, err error) {
	err = db.tx(ctx, tenant, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "SELECT nofx.retry_step($1, $2, $3)", id, cascade, nullable(reason)); err != nil {
			return err
		}
		rows, err := tx.Query(ctx, "SELECT "+stepColumns+" WHERE s.tenant_id = $1 AND s.id = $2", tenant, id)
		if err != nil {
			return err
		}
		if s, err = pgx.CollectExactlyOneRow(rows, scanStep); err != nil {
			return err
		}
		if err := db.enqueueReady(ctx, tx, tenant, s.RunID); err != nil {
			return err
		}
		r, err = oneRun(ctx, tx, tenant, s.RunID)
		return err
	})
	return s, r, err
}
