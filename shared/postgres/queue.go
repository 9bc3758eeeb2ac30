package postgres

import (
	"context"
	"encoding/json"
	"fmt"

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

// NewQueueClient makes a River client on db's connections, in River's schema. Its
// maintenance rebuilds no indexes: nofx_app does not own them, and they stay small
// without it (migrations/008_sweep.sql).
func (db *DB) NewQueueClient(c river.Config) (*QueueClient, error) {
	c.Schema = job.Schema
	c.ReindexerIndexNames = []string{}
	client, err := river.NewClient(riverpgxv5.New(db.pool), &c)
	if err != nil {
		return nil, fmt.Errorf("river client: %w", err)
	}
	return client, nil
}

// readyStep is a step that wants a job.
type readyStep struct {
	ID      uuid.UUID
	WakeSeq int64
	Queue   string
}

// enqueueReady inserts a River job for every ready step of the run that has
// none and is due, unless the run is paused: what resumes it comes here again.
// Every method that may ready steps ends with it, before the commit.
func (db *DB) enqueueReady(ctx context.Context, tx pgx.Tx, tenant, runID uuid.UUID) error {
	rows, err := tx.Query(ctx, `
		SELECT s.id, s.wake_seq, s.queue, r.traceparent
		FROM nofx.step s JOIN nofx.run r ON r.tenant_id = s.tenant_id AND r.id = s.run_id
		WHERE s.tenant_id = $1 AND s.run_id = $2 AND s.state = 'ready' AND s.job_id IS NULL AND s.ready_at <= clock_timestamp()
			AND r.state <> 'paused'
		ORDER BY s.idx`, tenant, runID)
	if err != nil {
		return err
	}
	var ready []readyStep
	var parent string
	var s readyStep
	if _, err := pgx.ForEachRow(rows, []any{&s.ID, &s.WakeSeq, &s.Queue, &parent}, func() error {
		ready = append(ready, s)
		return nil
	}); err != nil {
		return err
	}
	return db.enqueue(ctx, tx, tenant, runID, parent, ready)
}

// enqueue inserts a River job for each of a run's ready steps. It carries ctx's
// span when that is of the run's trace, else parent, the run's root context:
// work that a later request causes stays in its own trace.
func (db *DB) enqueue(ctx context.Context, tx pgx.Tx, tenant, runID uuid.UUID, parent string, ready []readyStep) error {
	if len(ready) == 0 {
		return nil
	}
	meta, err := metadata(ctx, runID, parent)
	if err != nil {
		return err
	}
	params := make([]river.InsertManyParams, len(ready))
	for i, s := range ready {
		params[i] = s.job(tenant, meta)
	}
	if err := db.insertJobs(inTrace(ctx, parent), tx, params); err != nil {
		return fmt.Errorf("enqueue %d steps of run %s: %w", len(params), runID, err)
	}
	return nil
}

func (s readyStep) job(tenant uuid.UUID, meta []byte) river.InsertManyParams {
	opts := job.Step{}.InsertOpts()
	opts.Queue, opts.Metadata = s.Queue, meta
	return river.InsertManyParams{Args: job.Step{TenantID: tenant, StepID: s.ID, WakeSeq: s.WakeSeq}, InsertOpts: &opts}
}

// insertJobs inserts jobs of steps and notes each with its step.
func (db *DB) insertJobs(ctx context.Context, tx pgx.Tx, params []river.InsertManyParams) error {
	jobs, err := db.river.InsertManyTx(ctx, tx, params)
	if err != nil {
		return err
	}
	for i, j := range jobs { // for a list the planner may choose to read the whole table
		args := params[i].Args.(job.Step)
		queue(tx, "UPDATE nofx.step SET job_id = $3 WHERE tenant_id = $1 AND id = $2", args.TenantID, args.StepID, j.Job.ID)
	}
	return nil
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
