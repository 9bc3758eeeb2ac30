package postgres_test

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"go.opentelemetry.io/otel/trace"

	"nofx.dev/shared/fault"
	"nofx.dev/shared/postgres"
	"nofx.dev/shared/run"
)

// jobs counts the River jobs that would wake the step at its present wake_seq.
func (s *store) jobs(t testing.TB, step uuid.UUID) int {
	t.Helper()
	return one[int](t, s, `SELECT count(*) FROM river.river_job j JOIN nofx.step s ON s.id = (j.args->>'step_id')::uuid AND s.wake_seq = (j.args->>'wake_seq')::bigint
		WHERE s.id = $1 AND s.job_id = j.id AND j.state = 'available'`, step)
}

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
	if held, err := s.Heartbeat(s.ctx, []postgres.Lease{{StepID: a, Fence: c.Fence}}, ttl); err != nil || len(held) != 0 {
		t.Errorf("Heartbeat(swept) = %v, %v, want nothing held", held, err)
	}
	if again := s.claim(t, a); again.Fence <= c.Fence+1 || again.LostLeases != 1 {
		t.Errorf("Claim() = fence %d, %d lost leases, want above %d and 1", again.Fence, again.LostLeases, c.Fence+1)
	}
	s.wantSound(t)
}

// After a Postgres start every lease looks dead; until two TTLs later none is
// taken. A heartbeat brings one back that ran out and was not swept.
func TestLeasesAfterAnOutage(t *testing.T) {
	t.Parallel()
	s := setup(t)
	r, steps := s.create(t, "a:", "b:")
	a, b := s.claim(t, steps["a"].ID), s.claim(t, steps["b"].ID)
	s.expire(t, a.StepID, b.StepID)
	if made := s.sweep(t, postgres.SweepRules{LeaseTTL: 24 * time.Hour}); made != nil {
		t.Errorf("sweep within two TTLs of the server's start = %v, want nothing", made)
	}
	held, err := s.Heartbeat(s.ctx, []postgres.Lease{{a.StepID, a.Fence}, {b.StepID, b.Fence + 1}, {uuid.New(), 1}}, ttl)
	if err != nil || len(held) != 1 || held[0] != a.StepID {
		t.Errorf("Heartbeat() = %v, %v, want %s alone", held, err, a.StepID)
	}
	s.finish(t, a, "succeed")
	s.wantStates(t, r.ID, "running a:succeeded b:running")
	if made := fmt.Sprint(s.sweep(t, postgres.SweepRules{})); made != "[lease_expired]" {
		t.Errorf("sweep later = %s, want [lease_expired]", made)
	}
}

// The third worker that a step takes with it is the last. From the second loss
// on it is kept from its neighbours for a while.
func TestPoison(t *testing.T) {
	t.Parallel()
	s := setup(t)
	r, steps := s.create(t, "a:", "b: a")
	a := steps["a"].ID
	for loss := 1; loss <= 3; loss++ {
		s.claim(t, a)
		s.expire(t, a)
		want := map[bool]string{true: "poison", false: "lease_expired"}[loss == 3]
		if made := s.sweep(t, postgres.SweepRules{}); !slices.Equal(made, []string{want}) {
			t.Fatalf("sweep after loss %d = %v, want [%s]", loss, made, want)
		}
		if loss == 3 {
			break
		}
		delay := one[float64](t, s, "SELECT extract(epoch FROM ready_at - clock_timestamp())::float8 FROM nofx.step WHERE id = $1", a)
		if jobs := s.jobs(t, a); loss == 1 && (delay > 0 || jobs != 1) || loss == 2 && (delay < 5 || delay > 31 || jobs != 0) {
			t.Errorf("after loss %d: due in %.1f s with %d jobs, want at once with one, or 10–30 s with none", loss, delay, jobs)
		}
		if loss == 2 {
			if made := s.sweep(t, postgres.SweepRules{}); made != nil {
				t.Errorf("sweep during the delay = %v, want nothing", made)
			}
			s.exec(t, "UPDATE nofx.step SET ready_at = clock_timestamp() - interval '1 second', due_at = clock_timestamp() - interval '1 second' WHERE id = $1", a)
			if made := fmt.Sprint(s.sweep(t, postgres.SweepRules{})); made != "[wakeup]" || s.jobs(t, a) != 1 {
				t.Errorf("sweep after the delay = %s and %d jobs, want [wakeup] and 1", made, s.jobs(t, a))
			}
		}
	}
	s.wantStates(t, r.ID, "failed a:failed b:skipped")
	if d, err := s.Run(s.ctx, s.tenant, r.ID); err != nil || d.FailureClass != run.ClassPoisoned {
		t.Errorf("Run().FailureClass = %s, %v, want poisoned", d.FailureClass, err)
	}
	s.wantSound(t)
}

// Steps that two workers died under never run on one worker together, whether
// they are claimed in one transaction, in two at once or one after the other.
// Another worker takes the second, and all others run beside them.
func TestSuspectsRunApart(t *testing.T) {
	t.Parallel()
	s := setup(t)
	w1, w2 := postgres.Worker{ID: "w1", PID: 1}, postgres.Worker{ID: "w2", PID: 2}
	suspect := func() uuid.UUID {
		_, steps := s.create(t, "a:")
		s.exec(t, "UPDATE nofx.step SET lost_leases = 2 WHERE id = $1", steps["a"].ID)
		return steps["a"].ID
	}
	wake := func(steps ...uuid.UUID) (list []postgres.Wake) {
		for _, id := range steps {
			list = append(list, postgres.Wake{Job: wakeUp(s.tenant, id, s.wakeSeq(t, id)), Span: trace.SpanContextFromContext(s.ctx), Pre: noCheckpoint})
		}
		return list
	}
	take := func(w postgres.Worker, steps ...uuid.UUID) (taken []*postgres.Claim) {
		claims, err := s.ClaimSteps(s.ctx, wake(steps...), w, ttl)
		if err != nil {
			t.Fatalf("ClaimSteps(%v) = %v", steps, err)
		}
		for _, c := range claims {
			if c != nil {
				taken = append(taken, c)
			}
		}
		return taken
	}
	_, steps := s.create(t, "a:")
	a, b, plain := suspect(), suspect(), steps["a"].ID

	first := take(w1, a, plain, b)
	if len(first) != 2 || first[0].StepID != a || first[1].StepID != plain {
		t.Fatalf("claims in one = %v, want the first suspect and the plain step", first)
	}
	delay := one[float64](t, s, "SELECT extract(epoch FROM due_at - clock_timestamp())::float8 FROM nofx.step WHERE id = $1 AND job_id IS NULL AND ready_at = due_at", b)
	if delay < 0.5 || delay > 4 {
		t.Errorf("the other suspect is due in %.1f s, want 2–4", delay)
	}
	again := func(id uuid.UUID) {
		t.Helper()
		s.exec(t, "UPDATE nofx.step SET ready_at = clock_timestamp() - interval '1 second', due_at = clock_timestamp() - interval '1 second' WHERE id = $1", id)
		if made := fmt.Sprint(s.sweep(t, postgres.SweepRules{})); made != "[wakeup]" || s.jobs(t, id) == 0 {
			t.Fatalf("sweep once it is due = %s with %d jobs, want [wakeup] and a job", made, s.jobs(t, id))
		}
	}
	again(b)
	if got := take(w1, b); got != nil {
		t.Errorf("claim beside a suspect = %v, want nothing", got)
	}
	again(b)
	other := take(w2, b)
	if len(other) != 1 {
		t.Fatalf("claim by another worker = %v, want the suspect", other)
	}
	s.finish(t, first[0], "succeed")

	// Two transactions of a worker at once.
	c, d := suspect(), suspect()
	var both sync.WaitGroup
	var taken atomic.Int64
	for _, list := range [][]postgres.Wake{wake(c), wake(d)} {
		both.Go(func() {
			claims, err := s.ClaimSteps(s.ctx, list, w1, ttl)
			if err != nil {
				t.Errorf("ClaimSteps() = %v", err)
			} else if claims[0] != nil {
				taken.Add(1)
			}
		})
	}
	both.Wait()
	if n := taken.Load(); n != 1 {
		t.Errorf("suspects claimed by two transactions at once = %d, want 1", n)
	}
	s.wantSound(t)
}

// When most of the fleet's leases ran out at once no step is to blame; when one
// worker of several died, its steps are counted.
func TestMassExpiryDoesNotCount(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		owners  []string // of the running steps
		expired int      // how many of them, from the first
		counts  bool
	}{
		"all of two workers":   {[]string{"w1", "w1", "w2", "w2"}, 4, false},
		"three of two workers": {[]string{"w1", "w1", "w2", "w2"}, 3, false},
		"one worker of two":    {[]string{"w1", "w1", "w2", "w2"}, 2, true},
		"the only worker":      {[]string{"w1", "w1", "w1", "w1", "w1"}, 5, true},
		"the only step":        {[]string{"w1"}, 1, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := setup(t)
			var ids []uuid.UUID
			for _, owner := range tt.owners {
				_, steps := s.create(t, "a:")
				c, err := s.Claim(s.ctx, wakeUp(s.tenant, steps["a"].ID, 1), postgres.Worker{ID: owner}, ttl, noCheckpoint)
				if err != nil || c == nil {
					t.Fatalf("Claim() = %v, %v", c, err)
				}
				ids = append(ids, c.StepID)
			}
			s.expire(t, ids[:tt.expired]...)
			if made := s.sweep(t, postgres.SweepRules{}); len(made) != tt.expired {
				t.Errorf("sweep = %v, want %d transitions", made, tt.expired)
			}
			want := 0
			if tt.counts {
				want = tt.expired
			}
			if n := one[int](t, s, "SELECT sum(lost_leases)::int FROM nofx.step"); n != want {
				t.Errorf("lost leases counted = %d, want %d", n, want)
			}
		})
	}
}

// A wake-up that got lost makes a step late, never stuck.
func TestLostWakeUps(t *testing.T) {
	t.Parallel()
	rules := postgres.SweepRules{Lost: 5 * time.Second}
	for name, tt := range map[string]struct {
		lose string // what happens to the job $1
		want string // after the step was ready for longer than rules.Lost
	}{
		"job waits its turn":           {"SELECT $1::bigint", "[]"},
		"job deleted":                  {"DELETE FROM river.river_job WHERE id = $1", "[wakeup]"},
		"job just fetched":             {"UPDATE river.river_job SET state = 'running', attempt = 1, attempted_at = clock_timestamp() WHERE id = $1", "[]"},
		"job of a dead worker":         {"UPDATE river.river_job SET state = 'running', attempt = 1, attempted_at = clock_timestamp() - interval '6 s' WHERE id = $1", "[wakeup]"},
		"job completed without claim":  {"UPDATE river.river_job SET state = 'completed', finalized_at = clock_timestamp() WHERE id = $1", "[wakeup]"},
		"job discarded":                {"UPDATE river.river_job SET state = 'discarded', finalized_at = clock_timestamp() WHERE id = $1", "[wakeup]"},
		"job retryable soon":           {"UPDATE river.river_job SET state = 'retryable', scheduled_at = clock_timestamp() + interval '1 s' WHERE id = $1", "[]"},
		"job retryable in two minutes": {"UPDATE river.river_job SET state = 'retryable', scheduled_at = clock_timestamp() + interval '2 minutes' WHERE id = $1", "[wakeup]"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := setup(t)
			_, steps := s.create(t, "a:")
			a := steps["a"].ID
			s.exec(t, tt.lose, one[int64](t, s, "SELECT job_id FROM nofx.step WHERE id = $1", a))
			if made := s.sweep(t, rules); made != nil {
				t.Errorf("sweep at once = %v, want nothing", made)
			}
			s.exec(t, "UPDATE nofx.step SET ready_at = clock_timestamp() - interval '6 s', due_at = clock_timestamp() - interval '6 s' WHERE id = $1", a)
			seq := s.wakeSeq(t, a)
			if made := fmt.Sprint(s.sweep(t, rules)); made != tt.want {
				t.Errorf("sweep = %s, want %s", made, tt.want)
			}
			if tt.want == "[]" {
				return
			}
			if now := s.wakeSeq(t, a); now != seq+1 || s.jobs(t, a) != 1 {
				t.Errorf("wake_seq = %d with %d jobs, want %d with 1", now, s.jobs(t, a), seq+1)
			}
			if c, err := s.Claim(s.ctx, wakeUp(s.tenant, a, seq), postgres.Worker{ID: "late"}, ttl, noCheckpoint); c != nil || err != nil {
				t.Errorf("Claim(the lost wake-up) = %v, %v, want nothing", c, err)
			}
			s.do(t, a, "succeed")
			s.wantSound(t)
		})
	}
}

// Sweepers need no leader: what eight of them find at once is done once.
func TestSweepersAtOnce(t *testing.T) {
	t.Parallel()
	s := setup(t)
	rules := postgres.SweepRules{Lost: time.Millisecond, Limit: 100}
	late, _ := s.create(t, "x:")
	s.exec(t, "UPDATE nofx.run SET deadline = clock_timestamp() WHERE id = $1", late.ID)
	_, steps := s.create(t, "a:", "b:", "w:", "m:", "r:")
	s.do(t, steps["w"].ID, "timer")
	s.do(t, steps["r"].ID, "retry")
	s.claim(t, steps["a"].ID)
	s.expire(t, steps["a"].ID)
	s.exec(t, "DELETE FROM river.river_job")
	s.exec(t, "UPDATE nofx.step SET ready_at = clock_timestamp() - interval '1 second', due_at = clock_timestamp() - interval '1 second' WHERE state = 'ready'")
	due, err := s.Due(s.ctx, rules)
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var made []string
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for _, d := range due {
				event, err := s.Sweep(s.ctx, d, rules, func() error { return nil })
				if err != nil {
					t.Errorf("Sweep(%s) = %v, want nil", d.Kind, err)
				}
				if event != "" {
					mu.Lock()
					made = append(made, event)
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	made = append(made, s.sweep(t, rules)...) // what they passed over while another held its run
	slices.Sort(made)
	if want := "[backoff_elapsed elapsed fail lease_expired wakeup wakeup]"; fmt.Sprint(made) != want { // b, m
		t.Errorf("8 sweepers made %v, want %s", made, want)
	}
	s.wantSound(t)
}

// A run that somebody holds, however long, is passed over: what is due behind it
// does not wait.
func TestSweepPassesOverAHeldRun(t *testing.T) {
	t.Parallel()
	s := setup(t)
	held, a := s.create(t, "a:", "b:", "w:")
	late, _ := s.create(t, "a:")
	free, b := s.create(t, "a:")
	s.claim(t, a["a"].ID)
	s.expire(t, a["a"].ID)
	s.do(t, a["b"].ID, "retry")
	s.do(t, a["w"].ID, "timer")
	s.do(t, b["a"].ID, "retry")
	s.exec(t, "UPDATE nofx.run SET deadline = clock_timestamp() WHERE id = $1", late.ID)
	rules := postgres.SweepRules{Lost: time.Minute, Limit: 100}
	due, err := s.Due(s.ctx, rules)
	if err != nil || len(due) != 5 {
		t.Fatalf("Due() = %+v, %v, want 5", due, err)
	}
	tx, err := s.Admin.Begin(s.ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(s.ctx)
	if _, err := tx.Exec(s.ctx, "SELECT FROM nofx.run WHERE id = ANY ($1) FOR NO KEY UPDATE", []uuid.UUID{held.ID, late.ID}); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	for _, d := range due {
		want := map[bool]string{true: "backoff_elapsed"}[d.RunID == free.ID]
		if made, err := s.Sweep(s.ctx, d, rules, func() error { return nil }); made != want || err != nil {
			t.Errorf("Sweep(%s of run %s) = %q, %v, want %q", d.Kind, d.RunID, made, err, want)
		}
	}
	if took := time.Since(began); took > time.Second {
		t.Errorf("Sweep() of %d took %v, want it at once", len(due), took)
	}
	if err := tx.Rollback(s.ctx); err != nil {
		t.Fatal(err)
	}
	if made := fmt.Sprint(s.sweep(t, rules)); made != "[backoff_elapsed elapsed fail lease_expired]" {
		t.Errorf("sweep afterwards = %s, want all that was passed over", made)
	}
	s.wantSound(t)
}

// A run that is over its deadline fails with all that is left of it.
func TestDeadline(t *testing.T) {
	t.Parallel()
	s := setup(t)
	r, steps := s.create(t, "a:", "m:", "b: a")
	c := s.claim(t, steps["a"].ID)
	s.do(t, steps["m"].ID, "approval")
	s.exec(t, "UPDATE nofx.run SET deadline = clock_timestamp() WHERE id = $1", r.ID)
	if made := fmt.Sprint(s.sweep(t, postgres.SweepRules{})); made != "[fail]" {
		t.Errorf("sweep = %s, want [fail]", made)
	}
	s.wantStates(t, r.ID, "failed a:cancelled m:cancelled b:cancelled")
	if d, err := s.Run(s.ctx, s.tenant, r.ID); err != nil || d.FailureClass != run.ClassTimeout {
		t.Errorf("Run().FailureClass = %s, %v, want timeout", d.FailureClass, err)
	}
	if err := s.FinishStep(s.ctx, outcome(c, "succeed")); !errors.Is(err, fault.Fenced) {
		t.Errorf("FinishStep() after the deadline = %v, want fenced", err)
	}
	s.wantSound(t)
}

// Cancelling ends everything at once, twice is a conflict, and an If-Match of
// another version is refused.
func TestCancel(t *testing.T) {
	t.Parallel()
	s := setup(t)
	r, steps := s.create(t, "a:", "m:", "r:", "b: a")
	s.claim(t, steps["a"].ID)
	s.do(t, steps["m"].ID, "approval")
	s.do(t, steps["r"].ID, "retry")
	stale := int64(1)
	_, err := s.CancelRun(s.ctx, s.tenant, r.ID, postgres.Verb{Reason: "enough", Version: &stale})
	if e := wantKind(t, "CancelRun(version 1)", err, fault.Conflict, "stale-version"); fmt.Sprint(e.Meta["version"]) != "2" {
		t.Errorf("CancelRun(version 1): version = %v, want 2", e.Meta["version"])
	}
	if _, err := s.CancelRun(s.ctx, s.tenant, r.ID, postgres.Verb{Reason: ""}); !errors.Is(err, fault.Invalid) {
		t.Errorf("CancelRun(without reason) = %v, want invalid", err)
	}
	current := int64(2)
	done, err := s.CancelRun(s.ctx, s.tenant, r.ID, postgres.Verb{Reason: "enough", Version: &current})
	if err != nil || done.State != run.Cancelled || done.Reason != "enough" {
		t.Errorf("CancelRun() = %+v, %v, want cancelled", done, err)
	}
	s.wantStates(t, r.ID, "cancelled a:cancelled m:cancelled r:cancelled b:cancelled")
	_, err = s.CancelRun(s.ctx, s.tenant, r.ID, postgres.Verb{Reason: "again"})
	e := wantKind(t, "CancelRun() again", err, fault.Conflict, "illegal-transition")
	if got := fmt.Sprintf("%v %v %v", e.Meta["from"], e.Meta["event"], e.Meta["allowed"]); got != "cancelled cancel [resume retry]" {
		t.Errorf("CancelRun() again: %v, want from, event and what is allowed", e.Meta)
	}
	_, err = s.CancelRun(s.ctx, s.tenant, uuid.New(), postgres.Verb{Reason: "x"})
	wantKind(t, "CancelRun(unknown)", err, fault.NotFound, "not-found")
	s.wantSound(t)
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
					if _, err := s.Heartbeat(s.ctx, leases, ttl); err != nil {
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
