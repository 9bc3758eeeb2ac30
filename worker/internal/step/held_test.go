package step

import (
	"context"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"

	"nofx.dev/shared/job"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/run"
)

// A wake-up for a run that another transaction holds gives its slot to others: on a
// worker of one slot another tenant's run ends meanwhile. It stays good, and costs
// none of its attempts; when the run is free again, its steps run.
func TestHeldRunLeavesItsSlot(t *testing.T) {
	t.Parallel()
	b := setup(t)
	held := b.create(t, script("a", "true"), script("b", "true"))
	tx, err := b.Admin.Begin(b.ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(b.ctx) //nolint:errcheck // over, unless the test failed
	if _, err := tx.Exec(b.ctx, "SELECT FROM nofx.run WHERE id = $1 FOR UPDATE", held.ID); err != nil {
		t.Fatal(err)
	}
	b.worker(t, func(c *Config) { c.Concurrency = 1 })
	other := *b
	other.tenant = b.Tenant(t)
	for range 3 {
		other.until(t, other.create(t, script("a", "true")).ID, run.Succeeded)
	}
	b.wait(t, "the wake-up was put off more than once, and is no failure", `SELECT EXISTS (SELECT FROM river.river_job
		WHERE args->>'tenant_id' = '`+b.tenant.String()+`' AND (metadata->>'snoozes')::int > 1 AND attempt <= 1 AND errors IS NULL)`)
	if err := tx.Rollback(b.ctx); err != nil {
		t.Fatal(err)
	}
	b.until(t, held.ID, run.Succeeded)
}

// wait waits until the answer to a question is yes.
func (b *bundle) wait(t *testing.T, what, question string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, 2*time.Minute)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		var yes bool
		if err := b.Admin.QueryRow(ctx, question).Scan(&yes); err != nil {
			t.Fatalf("not in time: %s: %v", what, err)
		}
		if yes {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

// A wake-up is put off for longer each time, but never so long that the sweeper
// takes it for lost.
func TestSnooze(t *testing.T) {
	t.Parallel()
	for snoozes, most := range map[string]time.Duration{
		`{}`: minSnooze, `{"snoozes": 1}`: 2 * minSnooze, `{"snoozes": 3}`: 8 * minSnooze, `{"snoozes": 1000000}`: maxSnooze, `x`: minSnooze,
	} {
		j := &river.Job[job.Step]{JobRow: &rivertype.JobRow{Metadata: []byte(snoozes)}}
		if got := snooze(j); got < most/2 || got > most || got >= lostAfter {
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
