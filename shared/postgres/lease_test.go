package postgres_test

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/run"
)

// A lease that ran out is taken back: the fence moves on, the step is ready
// under a new wake-up with a job, and only then can another worker have it.
func TestLeaseExpires(t *testing.T) {
	t.Parallel()
	s := setup(t)
	r, steps := s.create(t, "a:")
	a := steps["a"].ID
	c := s.claim(t, a)
	if made := s.sweep(t, postgres.SweepRules{}); made != nil {
		t.Errorf("sweep of a live lease = %v, want nothing", made)
	}
	s.expire(t, a)
	if made := fmt.Sprint(s.sweep(t, postgres.SweepRules{})); made != "[lease_expired]" {
		t.Errorf("sweep = %s, want [lease_expired]", made)
	}
	s.wantStates(t, r.ID, "running a:ready")
	if n := s.jobs(t, a); n != 1 {
		t.Errorf("jobs of the new wake-up = %d, want 1", n)
	}
	if renewed, locked, err := s.Heartbeat(s.ctx, []postgres.Lease{{StepID: a, Fence: c.Fence}}, calm); err != nil || len(renewed)+len(locked) != 0 {
		t.Errorf("Heartbeat(swept) = %v, %v, %v, want nothing held", renewed, locked, err)
	}
	if again := s.claim(t, a); again.Fence <= c.Fence+1 || again.LostLeases != 1 {
		t.Errorf("Claim() = fence %d, %d lost leases, want above %d and 1", again.Fence, again.LostLeases, c.Fence+1)
	}
	s.wantSound(t)
}

// calm are rules under which a silence of an hour is no outage.
var calm = postgres.LeaseRules{TTL: ttl, Gap: time.Hour}

// After a Postgres start and after an outage every lease looks dead: none is taken for
// one TTL from when workers reach the database again, whoever comes back first, nor
// while none does. A heartbeat brings one back that ran out and was not swept.
func TestLeasesAfterAnOutage(t *testing.T) {
	t.Parallel()
	second := postgres.LeaseRules{TTL: time.Second, Gap: time.Hour}
	contact := func(seen, resumed string) string {
		return fmt.Sprintf("UPDATE nofx.contact SET seen_at = clock_timestamp() - interval '%s', resumed_at = clock_timestamp() - interval '%s'", seen, resumed)
	}
	for name, tt := range map[string]struct {
		rules  postgres.LeaseRules
		before string // what has happened to the database
		stale  bool   // the lease was found before that
		want   string
	}{
		"the server has just started":       {postgres.LeaseRules{TTL: 24 * time.Hour, Gap: time.Hour}, contact("1 s", "2 days"), false, "[]"},
		"no outage":                         {second, contact("1 s", "1 day"), false, "[lease_expired]"},
		"a pause that is no outage":         {second, contact("59 minutes", "1 day"), false, "[lease_expired]"},
		"an outage that is just over":       {second, contact("61 minutes", "1 day"), false, "[]"},
		"an outage over for less than TTL":  {postgres.LeaseRules{TTL: 24 * time.Hour, Gap: time.Hour}, contact("1 s", "23 hours"), false, "[]"},
		"an outage over for a TTL":          {second, contact("1 s", "2 s"), false, "[lease_expired]"},
		"a failover to one that knows none": {second, "DELETE FROM nofx.contact", false, "[]"},
		"found before an outage":            {second, contact("61 minutes", "1 day"), true, "[]"},
		"found before, and no outage":       {second, contact("1 s", "1 day"), true, "[lease_expired]"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := setup(t)
			r, steps := s.create(t, "a:", "b:")
			a, b := s.claim(t, steps["a"].ID), s.claim(t, steps["b"].ID)
			if _, _, err := s.Heartbeat(s.ctx, nil, calm); err != nil { // the first contact
				t.Fatal(err)
			}
			s.until(t, "the server is older than the shortest TTL", "SELECT pg_postmaster_start_time() < clock_timestamp() - interval '1 s'")
			s.exec(t, tt.before)
			s.expire(t, a.StepID)
			made := ""
			rules := postgres.SweepRules{LeaseRules: tt.rules}
			if tt.stale {
				event, err := s.Sweep(s.ctx, postgres.Due{TenantID: s.tenant, RunID: r.ID, StepID: &a.StepID, Kind: postgres.DueLease}, rules, func() error { return nil })
				if err != nil {
					t.Fatalf("Sweep() = %v", err)
				}
				made = "[" + event + "]"
			} else {
				made = fmt.Sprint(s.sweep(t, rules))
			}
			if made != tt.want {
				t.Fatalf("sweep = %s, want %s", made, tt.want)
			}
			if tt.want != "[]" {
				return
			}
			wantKind(t, "FinishStep(the lease has run out)", s.FinishStep(s.ctx, outcome(a, "succeed")), fault.Unavailable, "lease-lapsed")
			wantKind(t, "RecordCheckpoint(the lease has run out)", s.RecordCheckpoint(s.ctx, a, checkpoint(run.PreCheckpoint)), fault.Unavailable, "lease-lapsed")
			renewed, locked, err := s.Heartbeat(s.ctx, []postgres.Lease{{a.StepID, a.Fence}, {b.StepID, b.Fence + 1}, {uuid.New(), 1}}, calm)
			if err != nil || len(renewed) != 1 || renewed[0] != a.StepID || locked != nil {
				t.Errorf("Heartbeat() = %v, %v, %v, want %s alone renewed", renewed, locked, err, a.StepID)
			}
			s.finish(t, a, "succeed")
			s.wantStates(t, r.ID, "running a:succeeded b:running")
		})
	}
}

// A heartbeat waits for nobody: a lease that another transaction has locked is not
// renewed, nor lost, and all others are renewed.
func TestHeartbeatPassesOverALock(t *testing.T) {
	t.Parallel()
	s := setup(t)
	_, steps := s.create(t, "a:", "b:")
	a, b := s.claim(t, steps["a"].ID), s.claim(t, steps["b"].ID)
	tx, err := s.Admin.Begin(s.ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(s.ctx)
	if _, err := tx.Exec(s.ctx, "SELECT FROM nofx.step_lease WHERE step_id = $1 FOR UPDATE", a.StepID); err != nil {
		t.Fatal(err)
	}
	renewed, locked, err := s.Heartbeat(s.ctx, []postgres.Lease{{a.StepID, a.Fence}, {b.StepID, b.Fence}}, calm)
	if err != nil || !slices.Equal(renewed, []uuid.UUID{b.StepID}) || !slices.Equal(locked, []uuid.UUID{a.StepID}) {
		t.Errorf("Heartbeat() = renewed %v, locked %v, %v, want b renewed and a locked", renewed, locked, err)
	}
}

// The lock orders of a heartbeat and of a cancel that takes several leases are
// the same: neither is ever the victim of a deadlock.
func TestHeartbeatAgainstCancel(t *testing.T) {
	t.Parallel()
	s := setup(t)
	for range 10 {
		var lines []string
		for i := range 40 {
			lines = append(lines, fmt.Sprintf("s%d:", i))
		}
		r, steps := s.create(t, lines...)
		var leases []postgres.Lease
		for _, step := range steps { // in no order
			leases = append(leases, postgres.Lease{StepID: step.ID, Fence: s.claim(t, step.ID).Fence})
		}
		stop := make(chan struct{})
		var wg sync.WaitGroup
		for range 3 {
			wg.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					if _, _, err := s.Heartbeat(s.ctx, leases, calm); err != nil {
						t.Errorf("Heartbeat() = %v, want nil", err)
						return
					}
				}
			})
		}
		if _, err := s.CancelRun(s.ctx, s.tenant, r.ID, postgres.Verb{Reason: "enough"}); err != nil {
			t.Errorf("CancelRun() = %v, want nil", err)
		}
		close(stop)
		wg.Wait()
	}
	if n := one[int](t, s, "SELECT deadlocks::int FROM pg_stat_database WHERE datname = current_database()"); n != 0 {
		t.Errorf("deadlocks = %d, want 0", n)
	}
}
