package step

import (
	"encoding/json"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/riverqueue/river"

	"nofx.dev/shared/job"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/run"
)

// heldRuns are the runs that were found held by another transaction when last
// asked for. The next claim or finish of one does not wait for it, so that many
// steps of it do not keep the others of its tenant waiting one after the other.
type heldRuns struct {
	mu sync.Mutex
	m  map[uuid.UUID]bool
}

const heldMost = 10_000

func (h *heldRuns) has(id uuid.UUID) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.m[id]
}

// note takes in what a claim or a finish of a step of the run came to.
func (h *heldRuns) note(id uuid.UUID, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if id == uuid.Nil || !errors.Is(err, postgres.ErrHeld) {
		delete(h.m, id)
		return
	}
	if h.m == nil || len(h.m) >= heldMost {
		h.m = map[uuid.UUID]bool{}
	}
	h.m[id] = true
}

// runOf returns the run of a job's step, or no run where the job does not name it.
func runOf(j *river.Job[job.Step]) uuid.UUID {
	var meta map[string]any
	_ = json.Unmarshal(j.Metadata, &meta)
	name, _ := meta[job.MetaRunID].(string)
	id, _ := run.RunID.Parse(name)
	return id
}

// LostAfter is how long a ready step may have no wake-up until a sweep gives it one.
const LostAfter = 5 * time.Second

// The shortest and the longest time that a wake-up for a held run is put off.
// The sweeper must not take it for lost meanwhile.
const (
	minSnooze = 100 * time.Millisecond
	maxSnooze = LostAfter - time.Second
)

// snooze returns how long to put off the wake-up for a held run: each time twice
// as long as before, since a run that is held for long may have many steps.
func snooze(j *river.Job[job.Step]) time.Duration {
	var meta struct {
		Snoozes int `json:"snoozes"` // River's count
	}
	_ = json.Unmarshal(j.Metadata, &meta)
	d := min(minSnooze<<min(meta.Snoozes, 10), maxSnooze)
	return d/2 + rand.N(d/2)
}
