package postgres

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"nofx.dev/shared/job"
	"nofx.dev/shared/run"
)

// QueueClient is a River client on our database.
type QueueClient = river.Client[pgx.Tx]

// NewQueueClient makes a River client on db's connections, in River's schema. Its
// maintenance rebuilds no indexes: workers do not own them, and they stay small
// without it (migrations/tables/009_worker.sql). The zero Reserve keeps no slots.
func (db *DB) NewQueueClient(c river.Config, r Reserve) (*QueueClient, error) {
	c.Schema = job.Schema
	c.ReindexerIndexNames = []string{}
	var driver riverdriver.Driver[pgx.Tx] = riverpgxv5.New(db.pool)
	if r.Slots > 0 {
		driver = reservingDriver{riverpgxv5.New(db.pool), &reservePilot{full: r.Full}}
		c.Queues = r.split(c.Queues)
	}
	client, err := river.NewClient(driver, &c)
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

// enqueueReady inserts a River job for every ready step of the run that is due and has
// none, unless the run is paused; its resume calls this again. Every method that may make
// steps ready ends with it, before the commit.
func (db *DB) enqueueReady(ctx context.Context, tx pgx.Tx, tenant, runID uuid.UUID) error {
	rows, err := tx.Query(ctx, `
		SELECT s.id, s.wake_seq, s.queue, r.traceparent, (SELECT nofx.count_active())
		FROM nofx.step s JOIN nofx.run r ON r.tenant_id = s.tenant_id AND r.id = s.run_id
		WHERE s.tenant_id = $1 AND s.run_id = $2 AND s.state = 'ready' AND s.job_id IS NULL AND s.ready_at <= clock_timestamp()
			AND r.state <> 'paused'
		ORDER BY s.idx`, tenant, runID)
	if err != nil {
		return err
	}
	var ready []readyStep
	var parent string
	var active int
	var s readyStep
	if _, err := pgx.ForEachRow(rows, []any{&s.ID, &s.WakeSeq, &s.Queue, &parent, &active}, func() error {
		ready = append(ready, s)
		return nil
	}); err != nil {
		return err
	}
	return db.enqueue(ctx, tx, tenant, runID, parent, ready, active)
}

// priority returns River's priority of a job that comes after a number of ready or running
// steps of its tenant: the more steps, the later the job, so that a tenant with few steps does not
// wait for a tenant with many. Jobs that wait long because of that are promoted; see
// [DB.PromoteJobs].
func priority(before int) int {
	switch {
	case before < 4:
		return 1
	case before < 32:
		return 2
	case before < 256:
		return 3
	}
	return 4
}

// PromoteJobs gives the highest priority to the job of each queue that has waited longest,
// and longer than most, unless a job has it already. So no job waits for ever. Its tag
// keeps it out of reserved slots.
func (db *DB) PromoteJobs(ctx context.Context, most time.Duration) error {
	_, err := across(ctx, db, pgx.RowTo[int64], `
		UPDATE river.river_job SET priority = 1, tags = '{promoted}' WHERE id IN (
			SELECT o.id FROM unnest($1::text[]) AS q (name), LATERAL (
				SELECT j.id FROM generate_series(2, 4) AS p (n), LATERAL (
					SELECT w.id, w.scheduled_at FROM river.river_job w
					WHERE w.state = 'available' AND w.queue = q.name AND w.priority = p.n AND w.scheduled_at < clock_timestamp() - $2::interval
					ORDER BY w.scheduled_at, w.id LIMIT 1) AS j
				WHERE NOT EXISTS (SELECT FROM river.river_job f
					WHERE f.state = 'available' AND f.queue = q.name AND f.priority = 1 AND f.scheduled_at < clock_timestamp() - $2::interval)
				ORDER BY j.scheduled_at LIMIT 1) AS o)
			AND state = 'available'
		RETURNING id`, job.Queues, most)
	return err
}

// enqueue inserts a River job for each of a run's ready steps. It carries ctx's
// span when that is of the run's trace, else parent, the run's root context:
// work that a later request causes stays in its own trace. active is how many
// ready and running steps the tenant has with these.
func (db *DB) enqueue(ctx context.Context, tx pgx.Tx, tenant, runID uuid.UUID, parent string, ready []readyStep, active int) error {
	if len(ready) == 0 {
		return nil
	}
	meta, err := metadata(ctx, runID, parent)
	if err != nil {
		return err
	}
	params := make([]river.InsertManyParams, len(ready))
	for i, s := range ready {
		params[i] = s.job(tenant, meta, active-len(ready)+i)
	}
	if err := db.insertJobs(inTrace(ctx, parent), tx, params); err != nil {
		return fmt.Errorf("enqueue %d steps of run %s: %w", len(params), runID, err)
	}
	return nil
}

// job returns the River job that wakes s, before which so many ready steps of its tenant came.
func (s readyStep) job(tenant uuid.UUID, meta []byte, before int) river.InsertManyParams {
	opts := job.Step{}.InsertOpts()
	opts.Queue, opts.Metadata, opts.Priority = s.Queue, meta, priority(before)
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

// inTrace returns ctx when its span belongs to the trace of parent, else ctx with
// parent as its remote span.
func inTrace(ctx context.Context, parent string) context.Context {
	remote := propagation.TraceContext{}.Extract(ctx, propagation.MapCarrier{"traceparent": parent})
	if trace.SpanContextFromContext(ctx).TraceID() == trace.SpanContextFromContext(remote).TraceID() {
		return ctx
	}
	return remote
}
