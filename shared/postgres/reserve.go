package postgres

import (
	"context"
	"strings"
	"time"

	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivershared/baseservice"
	"github.com/riverqueue/river/rivershared/riverpilot"
	"github.com/riverqueue/river/rivershared/util/dbutil"

	"nofx.dev/shared/job"
)

// Reserve keeps some of a worker's slots for tenants with few steps, so that one tenant's
// long steps do not hold all of them.
type Reserve struct {
	Slots int                     // of each queue; they are part of its MaxWorkers
	Full  func(queue string) bool // whether all other slots of a queue are taken and it is open
}

// reserveSuffix ends the name under which River knows the reserved slots of a queue. No
// job has such a queue.
const reserveSuffix = "_reserve"

// offersPerPoll is how often the reserved slots are offered while River polls their queue
// once. An offer asks the database nothing as long as other slots are free.
const offersPerPoll = 10

// split returns the queues with their reserved slots apart.
func (r Reserve) split(queues map[string]river.QueueConfig) map[string]river.QueueConfig {
	list := make(map[string]river.QueueConfig, 2*len(queues))
	for name, q := range queues {
		list[name+reserveSuffix] = river.QueueConfig{MaxWorkers: r.Slots, FetchPollInterval: q.FetchPollInterval / offersPerPoll}
		q.MaxWorkers -= r.Slots
		list[name] = q
	}
	return list
}

// reservingDriver is River's driver with a [reservePilot]: the way in which River lets
// an extension choose the jobs that a worker takes.
type reservingDriver struct {
	*riverpgxv5.Driver
	pilot *reservePilot
}

// PluginInit does nothing: the pilot needs nothing of the client.
func (d reservingDriver) PluginInit(*baseservice.Archetype) {}

// PluginPilot returns the pilot.
func (d reservingDriver) PluginPilot() riverpilot.Pilot { return d.pilot }

// reservePilot takes jobs as River does, but for reserved slots: they get the first jobs
// of tenants with few steps from the queue that they are part of, while it is full.
type reservePilot struct {
	riverpilot.StandardPilot
	full func(queue string) bool
}

// JobGetAvailable returns jobs that the caller now has to run.
func (p *reservePilot) JobGetAvailable(ctx context.Context, exec riverdriver.Executor, state riverpilot.ProducerState, params *riverdriver.JobGetAvailableParams) (*riverdriver.JobGetAvailableResult, error) {
	queue, reserved := strings.CutSuffix(params.Queue, reserveSuffix)
	if !reserved {
		return p.StandardPilot.JobGetAvailable(ctx, exec, state, params)
	}
	taken := &riverdriver.JobGetAvailableResult{}
	if !p.full(queue) {
		return taken, nil
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second) // as River does
	defer cancel()
	err := dbutil.WithTx(ctx, exec, func(ctx context.Context, tx riverdriver.ExecutorTx) error {
		var ids []int64
		// As River's own JobGetAvailable, but for the condition on priority and tags.
		if err := tx.QueryRow(ctx, `
			WITH first AS (
				SELECT id FROM river.river_job
				WHERE state = 'available' AND queue = $1 AND priority = 1 AND scheduled_at <= now() AND tags = '{}'
				ORDER BY priority, scheduled_at, id LIMIT $2 FOR UPDATE SKIP LOCKED
			), taken AS (
				UPDATE river.river_job j SET state = 'running', attempt = j.attempt + 1, attempted_at = now(), attempted_by = array_append(
					CASE WHEN array_length(j.attempted_by, 1) >= $3 THEN j.attempted_by[array_length(j.attempted_by, 1) + 2 - $3:] ELSE j.attempted_by END, $4::text)
				FROM first WHERE j.id = first.id RETURNING j.id
			) SELECT coalesce(array_agg(id), '{}') FROM taken`, queue, params.MaxToLock, params.MaxAttemptedBy, params.ClientID).Scan(&ids); err != nil || len(ids) == 0 {
			return err
		}
		var err error
		taken.Jobs, err = tx.JobGetByIDMany(ctx, &riverdriver.JobGetByIDManyParams{ID: ids, Schema: job.Schema})
		return err
	})
	if err != nil {
		return nil, err
	}
	return taken, nil
}
