package postgres_test

import (
	"fmt"
	"testing"
	"time"

	"nofx.dev/shared/postgres"
)

// The more ready steps a tenant has, the later its next ones have their turn; other
// tenants' do not count. What waits for long because of that is promoted, one at a
// time.
func TestPriority(t *testing.T) {
	t.Parallel()
	s := setup(t)
	const perRun = 10
	text := make([]string, perRun)
	for i := range text {
		text[i] = fmt.Sprintf("s%d:", i)
	}
	priorities := func(tenant any) []int {
		return all[int](t, s, "SELECT priority::int FROM river.river_job WHERE args->>'tenant_id' = $1 ORDER BY id", tenant)
	}
	r, _ := s.create(t, text...)
	for range 29 {
		s.create(t, text...)
	}
	for i, got := range priorities(s.tenant.String()) {
		want := 1
		for _, from := range []int{4, 32, 256} {
			if i >= from {
				want++
			}
		}
		if got != want {
			t.Errorf("priority of job %d = %d, want %d", i, got, want)
		}
	}
	other := *s
	other.tenant = s.Tenant(t)
	other.create(t, "a:")
	if got := priorities(other.tenant.String()); got[0] != 1 {
		t.Errorf("priority of another tenant's job = %d, want 1", got[0])
	}

	// Jobs that a run's resumption makes come after all others as well.
	if _, err := s.CancelRun(s.ctx, s.tenant, r.ID, postgres.Verb{Reason: "r"}); err != nil {
		t.Fatal(err)
	}
	if got := len(priorities(s.tenant.String())); got != 29*perRun {
		t.Errorf("jobs once a run is cancelled = %d, want the other runs' %d", got, 29*perRun)
	}
	if _, err := s.ResumeRun(s.ctx, s.tenant, r.ID, postgres.Verb{Reason: "r"}); err != nil {
		t.Fatal(err)
	}
	if list := priorities(s.tenant.String()); len(list) != 30*perRun || list[len(list)-1] != 4 {
		t.Errorf("jobs once it is resumed = %d, the last of priority %d; want %d and 4", len(list), list[len(list)-1], 30*perRun)
	}

	promoted := func() int {
		return one[int](t, s, "SELECT count(*)::int FROM river.river_job WHERE priority = 1 AND scheduled_at < clock_timestamp() - interval '1 minute'")
	}
	promote := func() {
		t.Helper()
		if err := s.PromoteJobs(s.ctx, time.Minute); err != nil {
			t.Fatalf("PromoteJobs() = %v", err)
		}
	}
	promote()
	if got := promoted(); got != 0 {
		t.Errorf("jobs promoted at once = %d, want none", got)
	}
	s.exec(t, "UPDATE river.river_job SET scheduled_at = scheduled_at - interval '2 minutes' WHERE priority > 1")
	for range 2 {
		promote()
		if got := promoted(); got != 1 {
			t.Errorf("jobs promoted = %d, want one at a time", got)
		}
		if got := one[string](t, s, "SELECT tags::text FROM river.river_job WHERE priority = 1 AND scheduled_at < clock_timestamp() - interval '1 minute'"); got != "{promoted}" {
			t.Errorf("tags of a promoted job = %s, want {promoted}, which reserved slots leave alone", got)
		}
	}
	s.exec(t, "DELETE FROM river.river_job WHERE priority = 1")
	promote()
	if got := promoted(); got != 1 {
		t.Errorf("jobs promoted next = %d, want one", got)
	}
}

// Steps that run in paused runs hold slots and count, so nobody gets many slots by pausing
// each run once it has started.
func TestPriorityOfPausedRuns(t *testing.T) {
	t.Parallel()
	s := setup(t)
	for i := range 6 {
		r, steps := s.create(t, "a:")
		if got, want := one[int](t, s, "SELECT priority::int FROM river.river_job ORDER BY id DESC LIMIT 1"), 1+i/4; got != want {
			t.Errorf("priority of the job of run %d = %d, want %d", i, got, want)
		}
		s.claim(t, steps["a"].ID)
		if _, err := s.PauseRun(s.ctx, s.tenant, r.ID, postgres.Verb{Reason: "r"}); err != nil {
			t.Fatal(err)
		}
	}
}
