// Package job is the wire contract of the queue: what a River job of ours
// carries. A job is only a wake-up. It holds ids, never content, may come twice
// or late, and the row of its step decides whether it still means anything.
package job

import (
	"github.com/google/uuid"
	"github.com/riverqueue/river"

	"nofx.dev/shared/run"
)

// Schema is where River keeps its tables.
const Schema = "river"

// Keys of a job's metadata besides the carrier's own.
const (
	MetaRunID = "nofx.run_id" // public id of the run
	MetaCause = "nofx.cause"  // traceparent of the request that caused work of another trace
)

// Queues are all queues, which a worker serves by default; see run.Queue for
// which tool goes where.
var Queues = []string{run.StepQueue, run.ReviewQueue, run.MaintenanceQueue}

// Step wakes a worker for a step. WakeSeq is part of it, and so of River's
// uniqueness: without it a second wake-up would be swallowed by the row that a
// dead worker left behind.
type Step struct {
	TenantID uuid.UUID `json:"tenant_id"`
	StepID   uuid.UUID `json:"step_id"`
	WakeSeq  int64     `json:"wake_seq"`
}

// Kind names the job in River's tables.
func (Step) Kind() string { return "step" }

// InsertOpts returns the options for River: its attempts cover infrastructure only, since
// retries belong to the step.
func (Step) InsertOpts() river.InsertOpts {
	return river.InsertOpts{
		Queue:       run.StepQueue,
		MaxAttempts: 5,
		UniqueOpts:  river.UniqueOpts{ByArgs: true},
	}
}
