package step

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"

	"nofx.dev/shared/job"
	"nofx.dev/shared/postgres"
)

// A wake-up is put off for longer each time, but never so long that the sweeper
// takes it for lost.
func TestSnooze(t *testing.T) {
	t.Parallel()
	for snoozes, most := range map[string]time.Duration{
		`{}`: minSnooze, `{"snoozes": 1}`: 2 * minSnooze, `{"snoozes": 3}`: 8 * minSnooze, `{"snoozes": 1000000}`: maxSnooze, `x`: minSnooze,
	} {
		j := &river.Job[job.Step]{JobRow: &rivertype.JobRow{Metadata: []byte(snoozes)}}
		if got := snooze(j); got < most/2 || got > most || got >= LostAfter {
			t.Errorf("snooze(%s) = %v, want half of %v to all of it", snoozes, got, most)
		}
	}
}

func TestHeldRuns(t *testing.T) {
	t.Parallel()
	var h heldRuns
	id := uuid.New()
	h.note(id, nil)
	if h.has(id) {
		t.Error("has(run that was free) = true")
	}
	h.note(id, postgres.ErrHeld)
	h.note(uuid.Nil, postgres.ErrHeld)
	if !h.has(id) || h.has(uuid.Nil) {
		t.Errorf("has(held run, no run) = %v, %v, want true, false", h.has(id), h.has(uuid.Nil))
	}
	h.note(id, nil)
	if h.has(id) || len(h.m) != 0 {
		t.Errorf("has(run that is free again) = %v, %d kept", h.has(id), len(h.m))
	}
	for range heldMost + 1 {
		h.note(uuid.New(), postgres.ErrHeld)
	}
	if len(h.m) > heldMost {
		t.Errorf("%d runs are kept, want at most %d", len(h.m), heldMost)
	}
}
