package postgres

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/job"
	"nofx.dev/shared/run"
)

// Bounds of what is done at once for one queue of a tenant.
const (
	countMost = 10_000 // steps that are counted
	wakeMost  = 200    // parked steps that one transaction wakes
	wakeTimes = 5      // such transactions of one worker each second
)

// TenantQueue is a queue with one tenant's steps in it.
type TenantQueue struct {
	Name         string
	PausedAt     *time.Time // by the tenant; nil unless paused
	PausedBy     string
	PausedByName string // of an API key
	Reason       string
	PausedForAll bool // by the operator of the installation
	Ready        int64
	Retrying     int64
	More         bool // Ready and Retrying are together more than was counted
	Running      int64
	OldestAge    time.Duration // of the ready steps: since they were
	Workers      int           // that serve the queue: heard of lately and not draining
	Waiting      int           // those of them that wait for something
}

// TenantQueues lists the queues with what tenant has in each.
func (db *DB) TenantQueues(ctx context.Context, tenant uuid.UUID) ([]TenantQueue, error) {
	all, err := db.Queues(ctx)
	if err != nil {
		return nil, err
	}
	var list []TenantQueue
	err = db.snapshot(ctx, tenant, func(tx pgx.Tx) error {
		list = nil
		for _, q := range all {
			if !slices.Contains(job.Queues, q.Name) {
				continue
			}
			own, err := tenantQueue(ctx, tx, tenant, q.Name)
			if err != nil {
				return err
			}
			own.PausedForAll, own.Workers, own.Waiting = q.PausedAt != nil, q.Workers, q.Waiting
			list = append(list, own)
		}
		return nil
	})
	return list, err
}

func tenantQueue(ctx context.Context, tx pgx.Tx, tenant uuid.UUID, name string) (TenantQueue, error) {
	q := TenantQueue{Name: name}
	var age float64
	// Leases are as many as workers have slots; what waits may be any number.
	err := tx.QueryRow(ctx, `
		SELECT w.ready, w.retrying, w.ready + w.retrying = $3, coalesce(greatest(0, extract(epoch FROM clock_timestamp() - w.oldest)), 0)::float8,
			(SELECT count(*) FROM nofx.step_lease l WHERE l.tenant_id = $1
				AND (SELECT s.queue FROM nofx.step s WHERE s.tenant_id = l.tenant_id AND s.id = l.step_id) = $2),
			p.paused_at, coalesce(p.paused_by, ''), coalesce(nofx.subject_name($1, p.paused_by), ''), coalesce(p.reason, '')
		FROM nofx.backlog($2, $3) AS w LEFT JOIN nofx.queue_pause p ON p.tenant_id = $1 AND p.queue = $2 AND p.resumed_at IS NULL`, tenant, name, countMost).
		Scan(&q.Ready, &q.Retrying, &q.More, &age, &q.Running, &q.PausedAt, &q.PausedBy, &q.PausedByName, &q.Reason)
	q.OldestAge = time.Duration(age * float64(time.Second))
	return q, err
}

// PauseQueue stops workers from claiming steps of tenant from a queue; running steps
// finish. A queue that is already paused keeps the time of its pause, and a reason replaces
// the earlier one. An unknown queue is fault.NotFound.
func (db *DB) PauseQueue(ctx context.Context, tenant uuid.UUID, name, reason string) error {
	if !slices.Contains(job.Queues, name) {
		return noQueue()
	}
	return db.tx(ctx, tenant, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, "SELECT nofx.pause_queue($1, $2)", name, nullable(reason))
		return err
	})
}

// ResumeQueue ends tenant's pause of a queue and wakes the steps parked meanwhile: some
// before it returns, the others by [DB.WakeParked]. The reason is for the audit log.
func (db *DB) ResumeQueue(ctx context.Context, tenant uuid.UUID, name, reason string) error {
	if !slices.Contains(job.Queues, name) {
		return noQueue()
	}
	return db.tx(ctx, tenant, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "SELECT nofx.resume_queue($1, $2)", name, nullable(reason)); err != nil {
			return err
		}
		_, err := db.wakeParked(ctx, tx, tenant, name)
		return err
	})
}

// WakeParked wakes up to a thousand of the steps that were parked in each queue that
// was resumed. Every worker calls it each second.
func (db *DB) WakeParked(ctx context.Context) error {
	type resumed struct {
		Tenant uuid.UUID
		Queue  string
	}
	list, err := across(ctx, db, pgx.RowToStructByPos[resumed], "SELECT tenant_id, queue FROM nofx.resumed_queues()")
	if err != nil {
		return err
	}
	for _, q := range list {
		for woken, n := wakeMost, 0; woken == wakeMost && n < wakeTimes; n++ {
			if err := db.tx(ctx, q.Tenant, func(tx pgx.Tx) (err error) {
				woken, err = db.wakeParked(ctx, tx, q.Tenant, q.Queue)
				return err
			}); err != nil {
				return fmt.Errorf("wake parked steps of queue %s: %w", q.Queue, err)
			}
		}
	}
	return nil
}

// wakeParked gives parked steps of any run new jobs, each in the root context of its run,
// and returns their number.
func (db *DB) wakeParked(ctx context.Context, tx pgx.Tx, tenant uuid.UUID, name string) (int, error) {
	rows, err := tx.Query(ctx, "SELECT step_id, run_id, wake_seq, traceparent FROM nofx.wake_parked($1, $2)", name, wakeMost)
	if err != nil {
		return 0, err
	}
	var params []river.InsertManyParams
	s := readyStep{Queue: name}
	var runID uuid.UUID
	var parent string
	if _, err := pgx.ForEachRow(rows, []any{&s.ID, &runID, &s.WakeSeq, &parent}, func() error {
		meta, err := json.Marshal(map[string]string{job.MetaRunID: run.RunID.Format(runID), "traceparent": parent})
		params = append(params, s.job(tenant, meta, len(params)))
		return err
	}); err != nil || len(params) == 0 {
		return 0, err
	}
	return len(params), db.insertJobs(ctx, tx, params)
}

func noQueue() error { return fault.New(fault.NotFound, "not-found", "no such queue") }
