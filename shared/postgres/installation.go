package postgres

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river/rivertype"

	"nofx.dev/shared/job"
)

// QueueDepth is the number of a queue's jobs in one of River's states.
type QueueDepth struct {
	Queue     string
	State     string
	Count     int64
	OldestAge time.Duration // of those available: since they were due
}

// QueueDepths counts the jobs of all tenants that are not finished, by queue and state.
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

// Queue is a queue of the installation, which all tenants share.
type Queue struct {
	Name     string
	PausedAt *time.Time // for all tenants; nil unless paused
	PausedBy string
	Reason   string
	Workers  int // that serve it: heard of lately and not draining
	Waiting  int // those of them that wait for something
}

// Queues lists the queues that there are: those we use, and any other that has
// been worked.
func (db *DB) Queues(ctx context.Context) ([]Queue, error) {
	byName := map[string]*Queue{}
	for _, name := range job.Queues {
		byName[name] = &Queue{Name: name}
	}
	worked, err := across(ctx, db, pgx.RowToStructByPos[Queue], `SELECT name, paused_at,
		coalesce(metadata->>'paused_by', ''), coalesce(metadata->>'reason', ''), 0, 0 FROM river.river_queue`)
	if err != nil {
		return nil, err
	}
	for _, q := range worked {
		if !strings.HasSuffix(q.Name, reserveSuffix) { // those are slots of another queue
			byName[q.Name] = &q
		}
	}
	workers, err := db.Workers(ctx)
	if err != nil {
		return nil, err
	}
	for _, w := range workers {
		for _, name := range w.Queues {
			if !w.Silent() && !w.Draining && byName[name] != nil {
				byName[name].Workers++
				if w.WaitsFor != "" {
					byName[name].Waiting++
				}
			}
		}
	}
	list := make([]Queue, 0, len(byName))
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		list = append(list, *byName[name])
	}
	return list, nil
}

// TenantPause is a queue that a tenant has paused for itself.
type TenantPause struct {
	Tenant   string // its slug
	Queue    string
	PausedAt time.Time
	PausedBy string // the name of a key where there is one
	Reason   string
}

// TenantPauses lists what all tenants have paused. It needs an administrator's
// connection.
func (db *DB) TenantPauses(ctx context.Context) ([]TenantPause, error) {
	return across(ctx, db, pgx.RowToStructByPos[TenantPause], "SELECT tenant, queue, paused_at, paused_by, reason FROM nofx.queue_pauses()")
}

// PauseQueueForAll stops workers from taking steps of any tenant from a queue; running
// steps finish. It records the actor and a reason. A queue that is already paused does not
// change. An unknown queue is fault.NotFound.
func (db *DB) PauseQueueForAll(ctx context.Context, name, reason string) error {
	return db.changeQueue(ctx, name, true, reason)
}

// ResumeQueueForAll ends a pause for all tenants. Pauses of single tenants remain.
func (db *DB) ResumeQueueForAll(ctx context.Context, name string) error {
	return db.changeQueue(ctx, name, false, "")
}

func (db *DB) changeQueue(ctx context.Context, name string, paused bool, reason string) error {
	return db.tx(ctx, uuid.Nil, func(tx pgx.Tx) error {
		if name == "*" || strings.HasSuffix(name, reserveSuffix) { // all of them, to River; some slots of one
			return noQueue()
		}
		if slices.Contains(job.Queues, name) { // which no worker may have served yet
			if _, err := tx.Exec(ctx, "INSERT INTO river.river_queue (name) VALUES ($1) ON CONFLICT (name) DO NOTHING", name); err != nil {
				return err
			}
		}
		change, note := db.river.QueueResumeTx, map[string]string{}
		if paused {
			change, note = db.river.QueuePauseTx, map[string]string{"paused_by": actor(ctx), "reason": reason}
		}
		doc, err := document(note)
		if err != nil {
			return err
		}
		if _, err := tx.Exec(ctx, "UPDATE river.river_queue SET metadata = $2 WHERE name = $1 AND ((paused_at IS NULL) = $3 OR $4 <> '')", name, doc, paused, reason); err != nil {
			return err
		}
		if err := change(ctx, tx, name, nil); errors.Is(err, rivertype.ErrNotFound) {
			return noQueue()
		} else if err != nil {
			return fmt.Errorf("queue %s: %w", name, err)
		}
		return nil
	})
}
