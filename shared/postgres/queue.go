package postgres

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivertype"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"

	"nofx.dev/shared/fault"
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
		opts := job.Step{}.InsertOpts()
		opts.Queue, opts.Metadata = s.Queue, meta
		params[i] = river.InsertManyParams{Args: job.Step{TenantID: tenant, StepID: s.ID, WakeSeq: s.WakeSeq}, InsertOpts: &opts}
	}
	jobs, err := db.river.InsertManyTx(inTrace(ctx, parent), tx, params)
	if err != nil {
		return fmt.Errorf("enqueue %d steps of run %s: %w", len(params), runID, err)
	}
	for i, j := range jobs { // for a list the planner may choose to read the whole table
		queue(tx, "UPDATE nofx.step SET job_id = $3 WHERE tenant_id = $1 AND id = $2", tenant, ready[i].ID, j.Job.ID)
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

// Queue is a queue of the deployment: all tenants share it.
type Queue struct {
	Name      string
	PausedAt  *time.Time       // nil unless paused
	Depth     map[string]int64 // by River's state: jobs that are not finished
	OldestAge time.Duration    // of those available: since they were due
	Workers   int              // that serve it: heard of lately and not draining
}

// Queues lists the queues that there are: those we use, and any other that has
// been worked.
func (db *DB) Queues(ctx context.Context) ([]Queue, error) {
	byName := map[string]*Queue{}
	queue := func(name string) *Queue {
		if byName[name] == nil {
			byName[name] = &Queue{Name: name, Depth: map[string]int64{}}
		}
		return byName[name]
	}
	for _, name := range job.Queues {
		queue(name)
	}
	type row struct {
		Name     string
		PausedAt *time.Time
	}
	worked, err := across(ctx, db, pgx.RowToStructByPos[row], "SELECT name, paused_at FROM river.river_queue")
	if err != nil {
		return nil, err
	}
	for _, q := range worked {
		queue(q.Name).PausedAt = q.PausedAt
	}
	depths, err := db.QueueDepths(ctx)
	if err != nil {
		return nil, err
	}
	for _, d := range depths {
		q := queue(d.Queue)
		q.Depth[d.State] = d.Count
		if d.State == "available" {
			q.OldestAge = d.OldestAge
		}
	}
	workers, err := db.Workers(ctx)
	if err != nil {
		return nil, err
	}
	for _, w := range workers {
		for _, name := range w.Queues {
			if w.Silence < SilentAfter && !w.Draining {
				queue(name).Workers++
			}
		}
	}
	list := make([]Queue, 0, len(byName))
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		list = append(list, *byName[name])
	}
	return list, nil
}

// PauseQueue has workers take nothing more from a queue, whoever's it is, or go on
// with it; what they run already they finish. To ask for what is so already changes
// nothing. An unknown queue is fault.NotFound.
func (db *DB) PauseQueue(ctx context.Context, tenant uuid.UUID, name string, paused bool) error {
	return db.tx(ctx, tenant, func(tx pgx.Tx) error {
		if name == "*" { // all of them, to River
			return noQueue()
		}
		if slices.Contains(job.Queues, name) { // which no worker may have served yet
			if _, err := tx.Exec(ctx, "INSERT INTO river.river_queue (name) VALUES ($1) ON CONFLICT (name) DO NOTHING", name); err != nil {
				return err
			}
		}
		change := db.river.QueueResumeTx
		if paused {
			change = db.river.QueuePauseTx
		}
		if err := change(ctx, tx, name, nil); errors.Is(err, rivertype.ErrNotFound) {
			return noQueue()
		} else if err != nil {
			return fmt.Errorf("queue %s: %w", name, err)
		}
		return nil
	})
}

func noQueue() error { return fault.New(fault.NotFound, "not-found", "no such queue") }
