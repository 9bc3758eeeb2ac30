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

// hasten makes a step due at once that was delayed, and wakes it.
func (s *store) hasten(t testing.TB, step uuid.UUID) {
	t.Helper()
	s.exec(t, "UPDATE nofx.step SET ready_at = clock_timestamp() - interval '1 second', due_at = clock_timestamp() - interval '1 second' WHERE id = $1", step)
	if made := fmt.Sprint(s.sweep(t, postgres.SweepRules{})); made != "[wakeup]" || s.jobs(t, step) != 1 {
		t.Fatalf("sweep after the delay = %s and %d jobs, want [wakeup] and 1", made, s.jobs(t, step))
	}
}

// The third worker that a step takes with it while it runs alone there is the last, and
// so is the tenth in whatever company. From the second loss on it is kept from others
// for a while.
func TestPoison(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		company bool // another step runs in the worker
		begins  bool // the tool begins, which is noted from the second attempt on
		losses  int  // until it is poisoned
	}{
		"alone":               {false, true, 3},
		"beside another":      {true, true, 10},
		"before it had begun": {false, false, 10},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := setup(t)
			r, steps := s.create(t, "a:", "b: a")
			a := steps["a"].ID
			for loss := 1; loss <= tt.losses; loss++ {
				lost := []uuid.UUID{a}
				c := s.claim(t, a)
				if tt.company {
					_, other := s.create(t, "o:")
					s.claim(t, other["o"].ID)
					lost = append(lost, other["o"].ID)
				}
				if tt.begins {
					if err := s.BeginTool(s.ctx, c); err != nil {
						t.Fatalf("BeginTool() = %v, want nil", err)
					}
				}
				s.expire(t, lost...)
				made := s.sweep(t, postgres.SweepRules{})
				if got, want := slices.Contains(made, "poison"), loss == tt.losses; got != want || len(made) != len(lost) {
					t.Fatalf("sweep after loss %d = %v, want poison: %v", loss, made, want)
				}
				for _, other := range lost[1:] {
					s.do(t, other, "succeed")
				}
				if loss == tt.losses {
					break
				}
				delay := one[float64](t, s, "SELECT extract(epoch FROM ready_at - clock_timestamp())::float8 FROM nofx.step WHERE id = $1", a)
				if jobs := s.jobs(t, a); loss == 1 && (delay > 0 || jobs != 1) || loss > 1 && (delay > 31 || jobs != 0) {
					t.Errorf("after loss %d: due in %.1f s with %d jobs, want at once with one, or 10–30 s with none", loss, delay, jobs)
				}
				if loss > 1 {
					s.hasten(t, a)
				}
			}
			s.wantStates(t, r.ID, "failed a:failed b:skipped")
			if d, err := s.Run(s.ctx, s.tenant, r.ID); err != nil || d.FailureClass != run.ClassPoisoned {
				t.Errorf("Run().FailureClass = %s, %v, want poisoned", d.FailureClass, err)
			}
			s.wantSound(t)
		})
	}
}

// Of the steps that a worker takes with it none counts, in whatever order and by
// however many sweepers they are taken away.
func TestLossesInCompany(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		owners []string // of the running steps
		kills  []int    // of each
	}{
		"one worker of several steps": {[]string{"w1", "w1", "w1", "w1", "w1", "w1"}, []int{0, 0, 0, 0, 0, 0}},
		"the only step":               {[]string{"w1"}, []int{1}},
		"two workers":                 {[]string{"w1", "w1", "w2"}, []int{0, 0, 1}},
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
			s.expire(t, ids...)
			var sweepers sync.WaitGroup
			for range 4 {
				sweepers.Go(func() { s.sweep(t, postgres.SweepRules{}) })
			}
			sweepers.Wait()
			s.sweep(t, postgres.SweepRules{})
			if got := all[int](t, s, "SELECT kills FROM nofx.step WHERE id = ANY ($1) AND lost_leases = 1 ORDER BY id", ids); !slices.Equal(got, tt.kills) {
				t.Errorf("losses that count = %v, want %v", got, tt.kills)
			}
		})
	}
}

// A River job ends with the lease that it carried, and when another takes its place:
// what is left of one whose worker is gone, once that has been silent for long.
func TestJobsOfADeadWorkerEnd(t *testing.T) {
	t.Parallel()
	const started = "UPDATE river.river_job SET state = 'running', attempt = 1, attempted_at = clock_timestamp() - interval '1 minute', attempted_by = '{w1}' WHERE id = $1"
	chain := func(t *testing.T, s *store, c *postgres.Claim, job int64) *postgres.Claim {
		f := outcome(c, "succeed")
		f.Checkpoints, f.Chain = []*postgres.Checkpoint{checkpoint(run.PostCheckpoint)}, &postgres.Chain{Queue: run.StepQueue, JobID: job, Pre: noCheckpoint}
		done, err := s.DB.FinishStep(s.ctx, f, postgres.Worker{ID: "w1", PID: 1}, ttl)
		if err != nil {
			t.Fatalf("FinishStep() = %v", err)
		}
		return done.Next
	}
	for name, tt := range map[string]struct {
		alive bool // the worker
		do    func(t *testing.T, s *store, r run.Run, c *postgres.Claim, job int64)
		want  string // state of the job
	}{
		"the lease expires": {false, func(t *testing.T, s *store, _ run.Run, c *postgres.Claim, _ int64) {
			s.expire(t, c.StepID)
			s.sweep(t, postgres.SweepRules{})
		}, "cancelled"},
		"the lease of a chained step expires": {false, func(t *testing.T, s *store, _ run.Run, c *postgres.Claim, job int64) {
			s.expire(t, chain(t, s, c, job).StepID)
			s.sweep(t, postgres.SweepRules{})
		}, "cancelled"},
		"the run is cancelled": {true, func(t *testing.T, s *store, r run.Run, _ *postgres.Claim, _ int64) {
			if _, err := s.CancelRun(s.ctx, s.tenant, r.ID, postgres.Verb{Reason: "enough"}); err != nil {
				t.Fatal(err)
			}
		}, "cancelled"},
		"the lease lives": {false, func(t *testing.T, s *store, _ run.Run, c *postgres.Claim, job int64) {
			chain(t, s, c, job)
		}, "running"},
		"the worker died after its finish": {false, func(t *testing.T, s *store, _ run.Run, c *postgres.Claim, _ int64) {
			s.finish(t, c, "succeed")
		}, "cancelled"},
		"the worker lives": {true, func(t *testing.T, s *store, _ run.Run, c *postgres.Claim, _ int64) {
			s.finish(t, c, "succeed")
		}, "running"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := setup(t)
			r, steps := s.create(t, "a:", "b: a")
			job := one[int64](t, s, "SELECT job_id FROM nofx.step WHERE id = $1", steps["a"].ID)
			s.exec(t, started, job)
			if tt.alive {
				if _, err := s.BeatWorker(s.ctx, postgres.WorkerInfo{ID: "w1", PID: 1, Queues: []string{run.StepQueue}}); err != nil {
					t.Fatal(err)
				}
			}
			c, err := s.DB.Claim(s.ctx, postgres.Wake{Job: wakeUp(s.tenant, steps["a"].ID, 1), JobID: job, Pre: noCheckpoint}, postgres.Worker{ID: "w1", PID: 1}, ttl)
			if err != nil || c == nil {
				t.Fatalf("Claim() = %v, %v", c, err)
			}
			tt.do(t, s, r, c, job)
			if _, err := s.EndStrayJobs(s.ctx, 100); err != nil {
				t.Fatalf("EndStrayJobs() = %v", err)
			}
			if got := one[string](t, s, "SELECT state::text FROM river.river_job WHERE id = $1", job); got != tt.want {
				t.Errorf("the job is %s, want %s", got, tt.want)
			}
		})
	}
}

// A step that two workers died under runs alone: a worker that runs anything else does
// not take it, nor one that takes others in the same transaction or another one at the
// same time. After a minute in vain it runs beside others, but not beside another one.
func TestSuspectsRunAlone(t *testing.T) {
	t.Parallel()
	s := setup(t)
	w1, w2 := postgres.Worker{ID: "w1", PID: 1}, postgres.Worker{ID: "w2", PID: 2}
	plain := func() uuid.UUID {
		_, steps := s.create(t, "a:")
		return steps["a"].ID
	}
	suspect := func() uuid.UUID {
		id := plain()
		for range 2 {
			s.claim(t, id)
			s.expire(t, id)
			s.sweep(t, postgres.SweepRules{})
		}
		s.hasten(t, id)
		return id
	}
	wake := func(steps ...uuid.UUID) (list []postgres.Wake) {
		for _, id := range steps {
			list = append(list, postgres.Wake{Job: wakeUp(s.tenant, id, s.wakeSeq(t, id)), Span: trace.SpanContextFromContext(s.ctx), Pre: noCheckpoint})
		}
		return list
	}
	taken := func(w postgres.Worker, steps ...uuid.UUID) (ids []uuid.UUID) {
		claims, err := s.ClaimSteps(s.ctx, wake(steps...), w, ttl)
		if err != nil {
			t.Fatalf("ClaimSteps(%v) = %v", steps, err)
		}
		for _, c := range claims {
			if c.Claim != nil {
				ids = append(ids, c.Claim.StepID)
			}
		}
		return ids
	}
	want := func(what string, got []uuid.UUID, want ...uuid.UUID) {
		t.Helper()
		if !slices.Equal(got, want) {
			t.Fatalf("%s: claimed %v, want %v", what, got, want)
		}
	}
	a, b, c := suspect(), suspect(), plain()
	want("two suspects and another in one transaction", taken(w1, a, c, b), c)
	delay := one[float64](t, s, "SELECT extract(epoch FROM due_at - clock_timestamp())::float8 FROM nofx.step WHERE id = $1 AND job_id IS NULL AND ready_at = due_at", b)
	if delay < 0.5 || delay > 4 {
		t.Errorf("the suspect is due in %.1f s, want 2–4", delay)
	}
	s.hasten(t, a)
	want("a suspect, by a worker that runs something", taken(w1, a))
	s.hasten(t, a)
	want("a suspect, by one that runs nothing", taken(w2, a), a)
	waited := func(id uuid.UUID) {
		s.hasten(t, id)
		s.exec(t, "UPDATE nofx.attempt SET ended_at = ended_at - interval '2 minutes' WHERE step_id = $1", id)
	}
	waited(b)
	want("one that has waited, beside a suspect", taken(w2, b))
	waited(b)
	want("one that has waited, beside another step", taken(w1, b), b)

	// Two transactions of a worker at once.
	idle := postgres.Worker{ID: "w3", PID: 3}
	var both sync.WaitGroup
	var n atomic.Int64
	for _, list := range [][]postgres.Wake{wake(suspect()), wake(suspect())} {
		both.Go(func() {
			claims, err := s.ClaimSteps(s.ctx, list, idle, ttl)
			if err != nil {
				t.Errorf("ClaimSteps() = %v", err)
			} else if claims[0].Claim != nil {
				n.Add(1)
			}
		})
	}
	both.Wait()
	if n := n.Load(); n != 1 {
		t.Errorf("suspects claimed by two transactions at once = %d, want 1", n)
	}
	s.wantSound(t)
}

// Whatever many wake-ups wait their turn, the look goes through all of them, bit by
// bit, and begins anew.
func TestLostWakeUpsInABacklog(t *testing.T) {
	t.Parallel()
	s := setup(t)
	var text []string
	for i := range 100 {
		text = append(text, fmt.Sprintf("a%d:", i))
	}
	_, steps := s.create(t, text...)
	s.exec(t, "UPDATE nofx.step SET ready_at = clock_timestamp() - interval '1 minute', due_at = clock_timestamp() - interval '1 minute' WHERE idx % 2 = 0") // at one moment
	s.exec(t, "UPDATE nofx.step SET ready_at = clock_timestamp() - interval '1 minute', due_at = clock_timestamp() - interval '1 minute' + idx * interval '1 ms' WHERE idx % 2 = 1")
	lost := []uuid.UUID{steps["a7"].ID, steps["a66"].ID, steps["a98"].ID, steps["a99"].ID}
	s.exec(t, "DELETE FROM river.river_job WHERE id IN (SELECT job_id FROM nofx.step WHERE id = ANY ($1))", lost)
	rules := postgres.SweepRules{LeaseRules: calm, Lost: time.Second, Limit: 15}
	var place postgres.SweepPlace
	for round := range 2 {
		var found []uuid.UUID
		for look := 1; ; look++ {
			due, err := s.Due(s.ctx, postgres.DueWakeUp, rules, &place)
			if err != nil {
				t.Fatalf("Due(wakeup) = %v", err)
			}
			for _, d := range due {
				found = append(found, *d.StepID)
			}
			if place == (postgres.SweepPlace{}) {
				if look != 7 {
					t.Errorf("round %d took %d looks, want 7 of at most 15 rows", round, look)
				}
				break
			}
		}
		slices.SortFunc(found, func(a, b uuid.UUID) int { return slices.Compare(a[:], b[:]) })
		if !slices.Equal(found, lost) {
			t.Errorf("round %d: lost wake-ups = %v, want %v", round, found, lost)
		}
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
		"job retryable a while ago":    {"UPDATE river.river_job SET state = 'retryable', scheduled_at = clock_timestamp() - interval '4 s' WHERE id = $1", "[]"},
		"job retryable for a minute":   {"UPDATE river.river_job SET state = 'retryable', scheduled_at = clock_timestamp() - interval '1 minute' WHERE id = $1", "[wakeup]"},
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
	rules := postgres.SweepRules{LeaseRules: postgres.LeaseRules{Gap: time.Hour}, Lost: time.Millisecond, Limit: 100}
	late, _ := s.create(t, "x:")
	s.exec(t, "UPDATE nofx.run SET deadline = clock_timestamp() WHERE id = $1", late.ID)
	_, steps := s.create(t, "a:", "b:", "w:", "m:", "r:")
	s.do(t, steps["w"].ID, "timer")
	s.do(t, steps["r"].ID, "retry")
	s.claim(t, steps["a"].ID)
	s.expire(t, steps["a"].ID)
	s.exec(t, "DELETE FROM river.river_job")
	s.exec(t, "UPDATE nofx.step SET ready_at = clock_timestamp() - interval '1 second', due_at = clock_timestamp() - interval '1 second' WHERE state = 'ready'")
	due, err := s.due(s.ctx, rules)
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
	rules := postgres.SweepRules{LeaseRules: postgres.LeaseRules{Gap: time.Hour}, Lost: time.Minute, Limit: 100}
	due, err := s.due(s.ctx, rules)
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
