package postgres

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"nofx.dev/shared/job"
	"nofx.dev/shared/run"
)

// QueueClient is a River client on our database.
type QueueClient = river.Client[pgx.Tx]

// NewQueueClient makes a River client on db's connections, in River's schema.
func (db *DB) NewQueueClient(c river.Config) (*QueueClient, error) {
	c.Schema = job.Schema
	client, err := river.NewClient(riverpgxv5.New(db.pool), &c)
	if err != nil {
		return nil, fmt.Errorf("river client: %w", err)
	}
	return client, nil
}

// enqueueReady inserts a River job for every ready step of the run that has
// none and is due. Every method that may ready steps ends with it, before the
// commit. The job carries ctx's span when that is of the run's trace, else the
// run's root context: work that a later request causes stays in its own trace.
func (db *DB) enqueueReady(ctx context.Context, tx pgx.Tx, tenant, runID uuid.UUID) error {
	rows, err := tx.Query(ctx, `
		SELECT s.id, s.wake_seq, s.queue, r.traceparent
		FROM nofx.step s JOIN nofx.run r ON r.tenant_id = s.tenant_id AND r.id = s.run_id
		WHERE s.tenant_id = $1 AND s.run_id = $2 AND s.state = 'ready' AND s.job_id IS NULL AND s.ready_at <= clock_timestamp()
		ORDER BY s.idx`, tenant, runID)
	if err != nil {
		return err
	}
	var steps []uuid.UUID
	var params []river.InsertManyParams
	var parent string
	for rows.Next() {
		args, opts := job.Step{TenantID: tenant}, job.Step{}.InsertOpts()
		if err := rows.Scan(&args.StepID, &args.WakeSeq, &opts.Queue, &parent); err != nil {
			return err
		}
		if opts.Metadata, err = metadata(ctx, runID, parent); err != nil {
			return err
		}
		steps = append(steps, args.StepID)
		params = append(params, river.InsertManyParams{Args: args, InsertOpts: &opts})
	}
	if err := rows.Err(); err != nil || len(params) == 0 {
		return err
	}
	jobs, err := db.river.InsertManyTx(inTrace(ctx, parent), tx, params)
	if err != nil {
		return fmt.Errorf("enqueue %d steps of run %s: %w", len(params), runID, err)
	}
	ids := make([]int64, len(jobs))
	for i, j := range jobs {
		ids[i] = j.Job.ID
	}
	_, err = tx.Exec(ctx, `
		UPDATE nofx.step s SET job_id = j.id FROM unnest($2::uuid[], $3::bigint[]) AS j (step_id, id)
		WHERE s.tenant_id = $1 AND s.id = j.step_id`, tenant, steps, ids)
	return err
}

// metadata names the job's run and, for work that a request of another trace
// caused, the request's span, to which the attempt links.
func metadata(ctx context.Context, runID uuid.UUID, parent string) ([]byte, error) {
	m := map[string]string{job.MetaRunID: run.RunID.Format(runID)}
	if cause := traceparent(ctx); cause != "" && inTrace(ctx, parent) != ctx {
		m[job.MetaCause] = cause
	}
	return json.Marshal(m)
}

// inTrace is ctx when its span belongs to the trace of parent, else ctx with
// parent as its remote span.
func inTrace(ctx context.Context, parent string) context.Context {
	remote := propagation.TraceContext{}.Extract(ctx, propagation.MapCarrier{"traceparent": parent})
	if trace.SpanContextFromContext(ctx).TraceID() == trace.SpanContextFromContext(remote).TraceID() {
		return ctx
	}
	return remote
}

// QueueDepth is how many jobs of a queue are in one of River's states.
type QueueDepth struct {
	Queue     string
	State     string
	Count     int64
	OldestAge time.Duration // of those available: since they were due
}

// QueueDepths counts the jobs that are not finished, by queue and state.
func (db *DB) QueueDepths(ctx context.Context) ([]QueueDepth, error) {
	return across(ctx, db, func(row pgx.CollectableRow) (QueueDepth, error) {
		var d QueueDepth
		var seconds float64
		err := row.Scan(&d.Queue, &d.State, &d.Count, &seconds)
		d.OldestAge = time.Duration(seconds * float64(time.Second))
		return d, err
	}, `
		SELECT queue, state::text, count(*), greatest(0, extract(epoch FROM clock_timestamp() - min(scheduled_at)))::float8
		FROM river.river_job WHERE state IN ('available', 'running', 'retryable', 'scheduled', 'pending')
		GROUP BY queue, state`)
}
